// Element types and the bfloat16 storage type.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace longhaul {

enum class DType : std::uint8_t { float64, float32, bfloat16, uint8, int32 };

/// Size of one element in bytes.
constexpr std::size_t size_of(DType type) {
  return type == DType::float64 ? 8 : type == DType::bfloat16 ? 2 : type == DType::uint8 ? 1 : 4;
}
/// "float64", "float32", "bfloat16", "uint8" (codes of numbers), "int32".
std::string_view name_of(DType type);
std::optional<DType> parse_dtype(std::string_view name);
constexpr bool is_floating(DType type) {
  return type != DType::int32 && type != DType::uint8;
}
/// Half the distance between 1 and the next number: the largest relative error of one rounding.
constexpr double unit_roundoff(DType type) {
  return type == DType::float64 ? 0x1p-53 : type == DType::float32 ? 0x1p-24 : 0x1p-9;
}

/// bfloat16 as storage: arithmetic happens in float.
struct bfloat16 {
  std::uint16_t bits = 0;
  bfloat16() = default;
  /// Rounds to nearest, ties to even; NaN stays NaN.
  explicit bfloat16(float value) {
    const std::uint32_t word = std::bit_cast<std::uint32_t>(value);
    if ((word & 0x7fffffffu) > 0x7f800000u)
      bits = static_cast<std::uint16_t>((word >> 16) | 0x40u);
    else
      bits = static_cast<std::uint16_t>((word + 0x7fffu + ((word >> 16) & 1u)) >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
};
static_assert(sizeof(bfloat16) == 2);

/// The type that arithmetic on stored elements of type T happens in: double for double, float otherwise.
template <typename T>
struct accumulate_type {
  using type = float;
};
template <>
struct accumulate_type<double> {
  using type = double;
};
template <typename T>
using accumulate_t = typename accumulate_type<T>::type;

/// Calls function with a value of the storage type of a floating `type` (double, float or bfloat16) and returns its
/// result.
template <typename Function>
decltype(auto) dispatch_floating(DType type, Function&& function) {
  switch (type) {
    case DType::float64:
      return function(double{});
    case DType::bfloat16:
      return function(bfloat16{});
    default:
      return function(float{});
  }
}

}  // namespace longhaul
