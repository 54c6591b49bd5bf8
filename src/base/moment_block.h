// Moments in 8 bits: what compiler and kernels share of them.
#pragma once
#include <cstdint>

namespace longhaul {

/// So many elements of a moment share a scale, as in arXiv 2110.02861.
inline constexpr std::int64_t moment_block = 256;
constexpr std::int64_t moment_blocks(std::int64_t elements) {
  return (elements + moment_block - 1) / moment_block;
}
/// Parameters with fewer elements (norms, biases) keep float32 moments: they take next to nothing.
inline constexpr std::int64_t least_for_8_bits = 4096;

}  // namespace longhaul
