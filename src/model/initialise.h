// Random initialisation that depends on nothing but the seed, the parameter's name and the element's place in the whole
// parameter: any rank can fill any part of it.
#pragma once
#include <array>
#include <cstdint>
#include <string_view>

#include "model/parameters.h"

namespace longhaul {

/// Philox4x32 with ten rounds: a counter-based generator of four random 32-bit words.
std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key);

/// A fixed 64-bit hash (FNV-1a) of a parameter's name.
std::uint64_t name_hash(std::string_view name);

/// Element `index` (flat, row-major, of the whole parameter) of the standard normal stream of (seed, name_hash).
double standard_normal(std::uint64_t seed, std::uint64_t name_hash, std::int64_t index);

/// Writes elements [begin, end) of the flat parameter to target[0, end - begin). The numbers are computed in double;
/// float gets them rounded. Of long ranges so many threads take a part each; the numbers are the same.
void initialise(const Parameter& parameter, std::uint64_t seed, std::int64_t begin, std::int64_t end, double* target,
                int threads = 1);
void initialise(const Parameter& parameter, std::uint64_t seed, std::int64_t begin, std::int64_t end, float* target,
                int threads = 1);

}  // namespace longhaul
