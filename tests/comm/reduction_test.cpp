#include "comm/reduction.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <vector>

using namespace longhaul;

TEST_CASE("a sum of bfloat16 rounds as bfloat16 does, for every value") {
  // Every bfloat16 plus values that make ties, carries, overflow and NaN.
  std::vector<bfloat16> all(65536);
  for (std::size_t i = 0; i < all.size(); ++i) all[i].bits = static_cast<std::uint16_t>(i);
  for (const float addend : {0.0f, 1.0f, 0x1.02p-7f, -0x1.82p3f, 0x1.fep127f, 0x1p-130f,
                             -std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    const std::vector<bfloat16> second(all.size(), bfloat16(addend));
    std::vector<bfloat16> sum(all.size());
    const void* inputs[2] = {all.data(), second.data()};
    sum_in_rank_order(inputs, 2, sum.data(), sum.size(), DType::bfloat16);
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < all.size(); ++i) {
      const bfloat16 expected(static_cast<float>(all[i]) + static_cast<float>(second[i]));
      const bool both_nan = std::isnan(static_cast<float>(expected)) && std::isnan(static_cast<float>(sum[i]));
      wrong += expected.bits != sum[i].bits && !both_nan;
    }
    CAPTURE(addend);
    CHECK(wrong == 0);
  }
}

TEST_CASE("bfloat16 sums are rounded once, not after each addition") {
  // 256 + 1 + 1: after the first addition bfloat16 would be back at 256.
  const bfloat16 values[3] = {bfloat16(256.0f), bfloat16(1.0f), bfloat16(1.0f)};
  const void* inputs[3] = {&values[0], &values[1], &values[2]};
  bfloat16 sum;
  sum_in_rank_order(inputs, 3, &sum, 1, DType::bfloat16);
  CHECK(static_cast<float>(sum) == 258.0f);
}

TEST_CASE("chunks and pieces cover every element once") {
  for (const int size : {1, 2, 3, 7})
    for (const std::size_t count : {0, 1, 2, 6, 7, 8, 50}) {
      const std::size_t chunk = reduction_chunk(size, count);
      std::size_t next = 0;
      for (int rank = 0; rank < size; ++rank)
        for (std::size_t piece = 0; piece * 3 < chunk; ++piece) {
          const ElementRange range = reduction_range(rank, chunk, count, piece, 3);
          if (range.count == 0) continue;
          CHECK(range.begin == next);
          next += range.count;
        }
      CHECK(next == count);
    }
}
