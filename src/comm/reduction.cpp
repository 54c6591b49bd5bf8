#include "comm/reduction.h"

#include <bit>
#include <cstdint>

#include "base/error.h"
#include "comm/communicator.h"

namespace longhaul {
namespace {

// A block of accumulators stays in the first-level cache, so that every input is read once from memory and `result` may
// be one of the inputs: a block is written only after all inputs have been read there.
constexpr std::size_t block_elements = 1024;

template <typename Element>
Element round_once(accumulate_t<Element> value) {
  return value;
}
/// As bfloat16's constructor, with a selection instead of a branch, so that the loop is vectorised.
template <>
[[gnu::always_inline]] inline bfloat16 round_once<bfloat16>(float value) {
  const std::uint32_t word = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t number = (word + 0x7fffu + ((word >> 16) & 1u)) >> 16;
  const std::uint32_t not_a_number = (word >> 16) | 0x40u;
  // Signed comparison: SSE2 has no unsigned one, and the sign bit is masked off.
  const bool is_number = static_cast<std::int32_t>(word & 0x7fffffffu) <= 0x7f800000;
  return std::bit_cast<bfloat16>(static_cast<std::uint16_t>(is_number ? number : not_a_number));
}

template <typename Element>
void sum_blocks(const void* const* inputs, int ranks, void* result, std::size_t count) {
  using Accumulator = accumulate_t<Element>;
  alignas(64) Accumulator sums[block_elements];
  for (std::size_t begin = 0; begin < count; begin += block_elements) {
    const std::size_t length = std::min(block_elements, count - begin);
    const Element* input = static_cast<const Element*>(inputs[0]) + begin;
#pragma omp simd
    for (std::size_t i = 0; i < length; ++i) sums[i] = static_cast<Accumulator>(input[i]);
    for (int rank = 1; rank < ranks; ++rank) {
      input = static_cast<const Element*>(inputs[rank]) + begin;
#pragma omp simd
      for (std::size_t i = 0; i < length; ++i) sums[i] += static_cast<Accumulator>(input[i]);
    }
    Element* output = static_cast<Element*>(result) + begin;
#pragma omp simd
    for (std::size_t i = 0; i < length; ++i) output[i] = round_once<Element>(sums[i]);
  }
}

}  // namespace

void sum_in_rank_order(const void* const* inputs, int ranks, void* result, std::size_t count, DType type) {
  LONGHAUL_CHECK(is_floating(type), "reductions take floating elements, not {}", name_of(type));
  dispatch_floating(type, [&]<typename Element>(Element) { sum_blocks<Element>(inputs, ranks, result, count); });
}

std::size_t Communicator::reduction_scratch_bytes(int size, std::size_t count, DType type) {
  LONGHAUL_CHECK(size >= 1, "a group of {} ranks", size);
  // One slot for each other rank; the own part is read where it is.
  const std::size_t slot = std::min(reduction_chunk(size, count), reduction_piece(type)) * size_of(type);
  return static_cast<std::size_t>(size - 1) * ((slot + 63) / 64 * 64);
}

}  // namespace longhaul
