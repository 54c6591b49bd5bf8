#include "base/dtype.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

using longhaul::bfloat16;

TEST_CASE("bfloat16 rounds to nearest even and keeps NaN and infinity") {
  CHECK(float(bfloat16(1.0f)) == 1.0f);
  CHECK(float(bfloat16(1.0f + 0x1p-8f)) == 1.0f);                // tie: to even
  CHECK(float(bfloat16(1.0f + 3 * 0x1p-8f)) == 1.0f + 0x1p-6f);  // tie: to even, upwards
  CHECK(std::isnan(float(bfloat16(std::numeric_limits<float>::quiet_NaN()))));
  CHECK(std::isinf(float(bfloat16(std::numeric_limits<float>::infinity()))));
}

TEST_CASE("every dtype parses from its own name") {
  for (auto type :
       {longhaul::DType::float64, longhaul::DType::float32, longhaul::DType::bfloat16, longhaul::DType::int32})
    CHECK(longhaul::parse_dtype(longhaul::name_of(type)) == type);
  CHECK_FALSE(longhaul::parse_dtype("float16"));
}
