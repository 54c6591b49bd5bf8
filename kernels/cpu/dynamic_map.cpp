#include "kernels/cpu/dynamic_map.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace longhaul::cpu {

DynamicMap::DynamicMap(bool is_signed) : signed_(is_signed) {
  std::array<double, 256> magnitudes{};
  magnitudes_ = 1;
  for (int decade = 0; decade < 7; ++decade) {
    const int parts = 1 << (is_signed ? decade : decade + 1);
    for (int part = 0; part < parts; ++part)
      magnitudes[static_cast<std::size_t>(magnitudes_++)] =
          std::pow(10.0, decade - 6) * (0.1 + 0.9 * (part + 0.5) / parts);
  }
  magnitudes[static_cast<std::size_t>(magnitudes_++)] = 1;
  zero_ = static_cast<std::uint8_t>(256 - magnitudes_);
  for (int k = 0; k < magnitudes_; ++k) {
    const auto i = static_cast<std::size_t>(k);
    const auto value = static_cast<float>(magnitudes[i]);
    values_[zero_ + i] = value;
    if (is_signed && k > 0 && k < magnitudes_ - 1) values_[zero_ - i] = -value;
    middles_[i] = k + 1 < magnitudes_ ? (value + static_cast<float>(magnitudes[i + 1])) / 2
                                      : std::numeric_limits<float>::infinity();
  }
  for (std::uint32_t bin = 0; bin < bins; ++bin) {
    const float least = std::bit_cast<float>((first_bin + bin) << 16),
                most = std::bit_cast<float>(((first_bin + bin) << 16) | 0xffffU);
    const auto below = [&](float quotient) {
      return std::lower_bound(middles_.begin(), middles_.begin() + magnitudes_, quotient) - middles_.begin();
    };
    magnitude_[bin] = static_cast<std::uint8_t>(below(least));
    LONGHAUL_CHECK(below(most) - below(least) <= 1, "two middles of the dynamic map in one bin");
  }
}

const DynamicMap& DynamicMap::of(bool is_signed) {
  static const DynamicMap with(true), without(false);
  return is_signed ? with : without;
}

std::uint8_t DynamicMap::nearest(float quotient) const {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(quotient), bin = (bits & 0x7fffffffU) >> 16;
  if (bin < first_bin) return zero_;
  int k = magnitude_[std::min(bin - first_bin, bins - 1)];
  k += std::bit_cast<float>(bits & 0x7fffffffU) > middles_[static_cast<std::size_t>(k)];
  if (!(bits >> 31)) return static_cast<std::uint8_t>(zero_ + k);
  return static_cast<std::uint8_t>(zero_ - std::min<int>(k, zero_));  // nothing is as small as -1
}

std::uint8_t DynamicMap::nearest_by_search(float quotient) const {
  int best = zero_;
  for (int code = 0; code < 256; ++code) {
    const auto distance = [&](int other) {
      return std::abs(static_cast<double>(quotient) - static_cast<double>(values_[static_cast<std::size_t>(other)]));
    };
    const bool smaller =
        std::abs(values_[static_cast<std::size_t>(code)]) < std::abs(values_[static_cast<std::size_t>(best)]);
    if (distance(code) < distance(best) || (distance(code) == distance(best) && smaller)) best = code;
  }
  return static_cast<std::uint8_t>(best);
}

float encode_block(const DynamicMap& map, const float* numbers, std::int64_t count, std::uint8_t* codes) {
  std::uint32_t largest = 0;  // NaN above infinity above all else
  for (std::int64_t i = 0; i < count; ++i)
    largest = std::max(largest, std::bit_cast<std::uint32_t>(numbers[i]) & 0x7fffffffU);
  if (largest == 0 || largest >= 0x7f800000U) {
    std::fill_n(codes, count, map.zero());
    return largest == 0 ? 0.0F : std::numeric_limits<float>::quiet_NaN();
  }
  const float scale = std::bit_cast<float>(largest);
  for (std::int64_t i = 0; i < count; ++i) codes[i] = map.nearest(numbers[i] / scale);
  return scale;
}

void decode_block(const DynamicMap& map, const std::uint8_t* codes, float scale, std::int64_t count, float* numbers) {
  for (std::int64_t i = 0; i < count; ++i) numbers[i] = map[codes[i]] * scale;
}

}  // namespace longhaul::cpu
