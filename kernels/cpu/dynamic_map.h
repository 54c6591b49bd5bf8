// Numbers in 8 bits: the dynamic (tree) map of arXiv 2110.02861 and 1511.04561. A block of numbers is divided by the
// largest of their magnitudes, its scale; of each quotient the code of the nearest number of the map is kept.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>

#include "base/moment_block.h"

namespace longhaul::cpu {

/// 256 numbers, ascending; a code is a place among them. In each of seven decades, down from 0.1 to 1, they are the
/// middles of equal parts, half as many in each decade as in the next higher one; with 0 and 1. Signed: the negative
/// ones too, of half as many, and no -1. Quotients that lie in the middle between two numbers become the smaller one
/// in magnitude.
class DynamicMap {
 public:
  static const DynamicMap& of(bool is_signed);

  float operator[](std::uint8_t code) const { return values_[code]; }
  std::uint8_t zero() const { return zero_; }
  /// The nearest number's code, for a quotient from -1 (0 for unsigned) to 1.
  std::uint8_t nearest(float quotient) const;
  /// The same by plain search: its reference.
  std::uint8_t nearest_by_search(float quotient) const;

 private:
  explicit DynamicMap(bool is_signed);
  // Quotients of one sign, exponent and leading seven bits: at most one middle lies among them. Below 2^-23 all are 0.
  static constexpr std::uint32_t first_bin = 104U << 7, bins = (127U << 7) - first_bin + 1;
  std::array<float, 256> values_{};
  std::array<float, 256> middles_{};  // of magnitude k and k + 1
  std::array<std::uint8_t, bins> magnitude_{};
  std::uint8_t zero_ = 0;
  int magnitudes_ = 0;  // from 0 to 1
  bool signed_;
};

/// `count` numbers, at most moment_block, as codes; returns their scale. NaN, with the codes of 0, when one of them is
/// not finite: nothing of the block can be told any more.
float encode_block(const DynamicMap& map, const float* numbers, std::int64_t count, std::uint8_t* codes);
void decode_block(const DynamicMap& map, const std::uint8_t* codes, float scale, std::int64_t count, float* numbers);

}  // namespace longhaul::cpu
