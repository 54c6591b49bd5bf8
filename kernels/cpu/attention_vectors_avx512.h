// AVX-512 operations for attention_tile.h. Included by files compiled for AVX-512 only.
#pragma once
#if !defined(__clang__)
// GCC 12 takes the deliberately undefined registers of its own AVX-512 header for an error of ours.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attention_tile.h"

namespace longhaul::cpu {
namespace {

/// Vectors of 16 floats and a register tile of 12 x 32: 24 accumulators, two right-hand vectors, broadcasts from
/// memory.
struct Avx512 {
  using Vector = __m512;
  using Mask = __mmask16;
  static constexpr int lanes = 16;
  static constexpr int rows = 12;

  LONGHAUL_INLINE Vector fill(float x) { return _mm512_set1_ps(x); }
  LONGHAUL_INLINE Vector load(const float* p) { return _mm512_loadu_ps(p); }
  LONGHAUL_INLINE Vector load(const std::uint16_t* p) {
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
  }
  LONGHAUL_INLINE void store(float* p, Vector x) { _mm512_storeu_ps(p, x); }
  /// Rounds to nearest even; NaN stays NaN.
  LONGHAUL_INLINE void store(std::uint16_t* p, Vector x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    rounded = _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), _mm512_srli_epi32(bits, 16),
                                   _mm512_set1_epi32(0x40));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(rounded));
  }
  LONGHAUL_INLINE float to_float(float x) { return x; }
  LONGHAUL_INLINE float to_float(std::uint16_t x) {
    return __builtin_bit_cast(float, static_cast<std::uint32_t>(x) << 16);
  }
  LONGHAUL_INLINE Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
  LONGHAUL_INLINE Vector subtract(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
  LONGHAUL_INLINE Vector multiply(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
  LONGHAUL_INLINE Vector divide(Vector a, Vector b) { return _mm512_div_ps(a, b); }
  LONGHAUL_INLINE Vector minimum(Vector a, Vector b) { return _mm512_min_ps(a, b); }
  LONGHAUL_INLINE Vector maximum(Vector a, Vector b) { return _mm512_max_ps(a, b); }
  LONGHAUL_INLINE Vector fused(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
  LONGHAUL_INLINE float sum(Vector x) { return _mm512_reduce_add_ps(x); }
  LONGHAUL_INLINE float largest(Vector x) { return _mm512_reduce_max_ps(x); }

  /// 2^x, relative error below 2e-7, exact at 0; 0 far below.
  LONGHAUL_INLINE Vector exp2(Vector x) {
    const Vector whole = _mm512_roundscale_ps(x, 0), part = _mm512_sub_ps(x, whole);
    Vector p = fill(exp2_coefficients[4]);
    LONGHAUL_UNROLL
    for (int i = 3; i >= 0; --i) p = fused(p, part, fill(exp2_coefficients[i]));
    p = fused(p, part, fill(1));
    return _mm512_scalef_ps(p, whole);
  }

  LONGHAUL_INLINE Mask within(const std::int32_t* p, std::int32_t low, std::int32_t high) {
    const __m512i x = _mm512_loadu_si512(p);
    return _mm512_mask_cmpge_epi32_mask(_mm512_cmple_epi32_mask(x, _mm512_set1_epi32(high)), x, _mm512_set1_epi32(low));
  }
  LONGHAUL_INLINE Vector select(Mask mask, Vector yes, Vector no) { return _mm512_mask_mov_ps(no, mask, yes); }

  /// Sixteen rows of sixteen words, transposed.
  template <typename Word>
  LONGHAUL_INLINE void transpose(const Word* from, std::ptrdiff_t stride, Word* to, std::ptrdiff_t to_stride) {
    __m512i r[16];
    LONGHAUL_UNROLL
    for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_si512(from + i * stride);
    LONGHAUL_UNROLL
    for (int s = 8; s; s >>= 1) {  // swap the off-diagonal blocks of 8, 4, 2 and 1
      alignas(64) int low[16], high[16];
      LONGHAUL_UNROLL
      for (int j = 0; j < 16; ++j) low[j] = j & s ? 16 + (j ^ s) : j, high[j] = j & s ? 16 + j : j | s;
      LONGHAUL_UNROLL
      for (int i = 0; i < 16; ++i)
        if (!(i & s)) {
          const __m512i a = r[i], b = r[i | s];
          r[i] = _mm512_permutex2var_epi32(a, _mm512_load_si512(low), b);
          r[i | s] = _mm512_permutex2var_epi32(a, _mm512_load_si512(high), b);
        }
    }
    LONGHAUL_UNROLL
    for (int i = 0; i < 16; ++i) _mm512_storeu_si512(to + i * to_stride, r[i]);
  }
};

}  // namespace
}  // namespace longhaul::cpu
