// Random inputs, quick enough for a gigabyte and the same for the same seed.
#pragma once
#include <cstdint>

namespace longhaul::bench {

/// Nearly normal numbers (the sum of three uniform ones) of mean 0 and variance 1; never 0.
struct NormalNumbers {
  explicit NormalNumbers(unsigned seed) : state(seed * 7919ull + 1) {}
  float operator()() {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    const std::uint64_t x = state ^ state >> 29;
    const int sum =
        static_cast<int>(x >> 8 & 0xffff) + static_cast<int>(x >> 24 & 0xffff) + static_cast<int>(x >> 44 & 0xffff);
    // Not a power of two: all bits of the mantissa are used, and sums round.
    return (static_cast<float>(sum - 98302) + 0.5f) * (1.99987f / 65536.0f);
  }
  std::uint64_t state;
};

}  // namespace longhaul::bench
