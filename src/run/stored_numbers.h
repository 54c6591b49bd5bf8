// Numbers as weight files store them, converted to those that we compute with. Private to src/run.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>

#include "base/dtype.h"

namespace longhaul {

/// The element types of weight files that we convert.
enum class Stored : std::uint8_t { float64, float32, bfloat16, float16 };

/// Of a safetensors dtype; nothing for one that we do not convert.
inline std::optional<Stored> stored_type(std::string_view name) {
  if (name == "F64") return Stored::float64;
  if (name == "F32") return Stored::float32;
  if (name == "BF16") return Stored::bfloat16;
  if (name == "F16") return Stored::float16;
  return std::nullopt;
}

/// IEEE half precision: 1 sign bit, 5 bits of exponent (bias 15), 10 of fraction. Every value is exact in float.
inline float from_half(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
  const std::uint32_t exponent = bits >> 10 & 0x1fu, fraction = bits & 0x3ffu;
  if (exponent == 0x1fu) return std::bit_cast<float>(sign | 0x7f800000u | fraction << 13);
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
  const float magnitude = static_cast<float>(fraction) * 0x1p-24f;  // zero and subnormal
  return sign ? -magnitude : magnitude;
}

/// Tensors in a file are not aligned.
template <typename T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

/// `count` elements at `from` to target[0], target[stride], ...
template <typename T>
void convert(const std::byte* from, Stored type, std::int64_t count, std::int64_t stride, T* target) {
  const auto each = [&](std::int64_t width, auto element) {
    for (std::int64_t i = 0; i < count; ++i) target[i * stride] = static_cast<T>(element(from + i * width));
  };
  switch (type) {
    case Stored::float64:
      return each(8, load<double>);
    case Stored::float32:
      return each(4, load<float>);
    case Stored::bfloat16:
      return each(2, [](const std::byte* at) { return static_cast<float>(load<bfloat16>(at)); });
    case Stored::float16:
      return each(2, [](const std::byte* at) { return from_half(load<std::uint16_t>(at)); });
  }
}

}  // namespace longhaul
