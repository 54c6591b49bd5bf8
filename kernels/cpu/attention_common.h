// What the attention implementations share on the generic side: checks and the mask rule.
#pragma once
#include <algorithm>
#include <climits>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attention.h"

namespace longhaul::cpu {

/// Throw std::logic_error unless shapes, pointers and dtypes are as attention.h says.
void check_attention(const AttentionProblem& problem, const AttentionForward& arguments);
void check_attention(const AttentionProblem& problem, const AttentionBackward& arguments);

/// The index of the first key that query `position` (within the batch's index arrays) may see.
inline std::int32_t first_visible(const AttentionProblem& problem, std::int64_t position) {
  const std::int64_t floor = problem.window ? problem.query_index[position] - problem.window + 1 : 0;
  return static_cast<std::int32_t>(std::max<std::int64_t>({problem.key_start[position], floor, 0}));
}

/// Cuts aligned pieces from a block of memory; with a null block it only counts.
class Carver {
 public:
  explicit Carver(void* memory) : memory_(static_cast<std::byte*>(memory)) {}
  /// `count` elements of T, starting on a cache line.
  template <typename T>
  T* take(std::int64_t count) {
    std::byte* piece = memory_ ? memory_ + used_ : nullptr;
    used_ += (static_cast<std::size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return reinterpret_cast<T*>(piece);
  }
  std::size_t used() const { return used_; }  ///< bytes, a multiple of 64
  bool counts_only() const { return memory_ == nullptr; }

 private:
  std::byte* memory_;
  std::size_t used_ = 0;
};

}  // namespace longhaul::cpu
