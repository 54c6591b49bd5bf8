// How many rows products over rows add up at a time: tiles of rows that begin at multiples of it change no bit of a
// sum.
#pragma once
#include <cstdint>

namespace longhaul {

/// A multiple of what the libraries of matrix products add up at once themselves (oneDNN 2.6: 1536 in bfloat16, 768 in
/// float32; OpenBLAS: 768 in float64), so that cutting their sums here changes none of theirs on one thread.
inline constexpr std::int64_t row_block = 3072;

}  // namespace longhaul
