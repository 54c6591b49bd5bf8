// The vector and element types that CUDA headers give device code, for a host compiler.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

struct int2 {
  int x, y;
};
struct int4 {
  int x, y, z, w;
};
struct float2 {
  float x, y;
};
struct float4 {
  float x, y, z, w;
};
struct uint2 {
  std::uint32_t x, y;
};
struct uint4 {
  std::uint32_t x, y, z, w;
};
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

namespace longhaul::gpu {

/// bfloat16 storage with the conversions of __nv_bfloat16: rounds to nearest, ties to even.
struct bfloat16 {
  std::uint16_t bits;
  bfloat16() = default;
  explicit bfloat16(float value) {
    std::uint32_t word;
    std::memcpy(&word, &value, 4);
    bits = value != value ? 0x7fff : static_cast<std::uint16_t>((word + 0x7fff + ((word >> 16) & 1)) >> 16);
  }
  operator float() const {
    const std::uint32_t word = static_cast<std::uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &word, 4);
    return value;
  }
};

/// What a CUtensorMap says, in plain words: bf16, four dimensions, innermost first, 128-byte swizzle.
struct TensorMap {
  const bfloat16* base;
  long long extent[4], stride[4];  // elements
  int box[4];
};

}  // namespace longhaul::gpu
