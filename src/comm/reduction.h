// What every CPU transport does alike in a reduction: how elements are divided into chunks and pieces, and the sum
// itself. Using one function for the sum is what makes transports agree bitwise.
#pragma once
#include <algorithm>
#include <cstddef>

#include "base/dtype.h"

namespace longhaul {

/// Elements of the chunk that each rank sums: ceil(count / size); the last chunks may be shorter or empty.
constexpr std::size_t reduction_chunk(int size, std::size_t count) {
  const auto ranks = static_cast<std::size_t>(size);
  return count / ranks + (count % ranks != 0);
}

/// Largest number of elements of a chunk that a message-passing transport receives from one rank at once (1 MiB).
constexpr std::size_t reduction_piece(DType type) {
  return (std::size_t{1} << 20) / size_of(type);
}

/// Bytes between the places in scratch of the pieces of two ranks, of chunks of `chunk` elements.
constexpr std::size_t reduction_slot_bytes(std::size_t chunk, DType type) {
  return (std::min(chunk, reduction_piece(type)) * size_of(type) + 63) / 64 * 64;
}

/// Which of these places holds what `rank` receives from `from`, which is another one.
constexpr std::size_t reduction_slot(int from, int rank) {
  return static_cast<std::size_t>(from < rank ? from : from - 1);
}

/// A range of elements.
struct ElementRange {
  std::size_t begin = 0;
  std::size_t count = 0;
};

/// Elements of piece `piece` of the chunk of `rank`, cut off at `count`: begin counts from the start of the buffer.
/// `chunk` = reduction_chunk(...).
constexpr ElementRange reduction_range(int rank, std::size_t chunk, std::size_t count, std::size_t piece,
                                       std::size_t piece_elements) {
  const std::size_t chunk_begin = std::min(static_cast<std::size_t>(rank) * chunk, count);
  const std::size_t chunk_end = std::min(chunk_begin + chunk, count);
  const std::size_t begin = std::min(chunk_begin + piece * piece_elements, chunk_end);
  return {begin, std::min(piece_elements, chunk_end - begin)};
}

/// result[i] = inputs[0][i] + inputs[1][i] + ... + inputs[ranks - 1][i], added in this order in float32 (float64 for
/// float64) and rounded once. `result` may be one of the inputs. `type` is float64, float32 or bfloat16; anything else
/// is a std::logic_error. Allocates nothing.
void sum_in_rank_order(const void* const* inputs, int ranks, void* result, std::size_t count, DType type);

}  // namespace longhaul
