#include "kernels/cpu/peak.h"

#include <catch2/catch.hpp>
#include <vector>

#include "kernels/cpu/isa.h"

using namespace longhaul::cpu;

TEST_CASE("peaks are plausible and ordered") {
  const double float32 = measure_float32_peak(), bfloat16 = measure_bfloat16_peak();
  CHECK(float32 > 1e8);
  CHECK(float32 < 1e12);
  if (usable_isa().peak_bfloat16)
    CHECK(bfloat16 > 1.2 * float32);
  else
    CHECK(bfloat16 == 0);
  std::vector<float> a(1 << 16), b(1 << 16, 1.f), c(1 << 16, 2.f);
  CHECK(measure_triad(a.data(), b.data(), c.data(), 1 << 16) > 1e7);
  CHECK(a[1234] == 7);
}
