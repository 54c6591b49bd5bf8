// Attention with AVX2 and FMA: float32, and bfloat16 widened to float32.
#include <immintrin.h>

#include "kernels/cpu/attention_words_float.h"

namespace longhaul::cpu {
namespace {

/// Vectors of 8 floats and a register tile of 6 x 16: 12 of the 16 registers are accumulators.
struct Avx2 {
  using Vector = __m256;
  using Mask = __m256;
  static constexpr int lanes = 8;
  static constexpr int rows = 6;

  LONGHAUL_INLINE Vector fill(float x) { return _mm256_set1_ps(x); }
  LONGHAUL_INLINE Vector load(const float* p) { return _mm256_loadu_ps(p); }
  LONGHAUL_INLINE Vector load(const std::uint16_t* p) {
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
  }
  LONGHAUL_INLINE void store(float* p, Vector x) { _mm256_storeu_ps(p, x); }
  /// Rounds to nearest even; NaN stays NaN.
  LONGHAUL_INLINE void store(std::uint16_t* p, Vector x) {
    const __m256i bits = _mm256_castps_si256(x), high = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    const __m256i chosen = _mm256_blendv_epi8(rounded, _mm256_or_si256(high, _mm256_set1_epi32(0x40)),
                                              _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm_packus_epi32(_mm256_castsi256_si128(chosen), _mm256_extracti128_si256(chosen, 1)));
  }
  LONGHAUL_INLINE float to_float(float x) { return x; }
  LONGHAUL_INLINE float to_float(std::uint16_t x) {
    return __builtin_bit_cast(float, static_cast<std::uint32_t>(x) << 16);
  }
  LONGHAUL_INLINE Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
  LONGHAUL_INLINE Vector subtract(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
  LONGHAUL_INLINE Vector multiply(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
  LONGHAUL_INLINE Vector divide(Vector a, Vector b) { return _mm256_div_ps(a, b); }
  LONGHAUL_INLINE Vector minimum(Vector a, Vector b) { return _mm256_min_ps(a, b); }
  LONGHAUL_INLINE Vector maximum(Vector a, Vector b) { return _mm256_max_ps(a, b); }
  LONGHAUL_INLINE Vector fused(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
  LONGHAUL_INLINE float sum(Vector x) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
  }
  LONGHAUL_INLINE float largest(Vector x) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
  }

  /// 2^x, relative error below 2e-7, exact at 0; 0 below 2^-126, infinity from 2^128 on.
  LONGHAUL_INLINE Vector exp2(Vector x) {
    // The operand that may be NaN comes second, so that NaN stays.
    const Vector bounded = _mm256_max_ps(_mm256_set1_ps(-126), _mm256_min_ps(_mm256_set1_ps(128), x));
    const Vector whole = _mm256_round_ps(bounded, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const Vector part = _mm256_sub_ps(bounded, whole);
    Vector p = fill(exp2_coefficients[4]);
    LONGHAUL_UNROLL
    for (int i = 3; i >= 0; --i) p = fused(p, part, fill(exp2_coefficients[i]));
    p = fused(p, part, fill(1));
    // Two factors, for 2^128 alone is no finite float.
    const __m256i exponent = _mm256_cvtps_epi32(whole), half = _mm256_srai_epi32(exponent, 1);
    const auto power = [](__m256i e) __attribute__((always_inline)) {
      return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(e, _mm256_set1_epi32(127)), 23));
    };
    p = _mm256_mul_ps(_mm256_mul_ps(p, power(half)), power(_mm256_sub_epi32(exponent, half)));
    return _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_set1_ps(-126), _CMP_LT_OQ), p);
  }

  LONGHAUL_INLINE Mask within(const std::int32_t* p, std::int32_t low, std::int32_t high) {
    const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m256i outside =
        _mm256_or_si256(_mm256_cmpgt_epi32(x, _mm256_set1_epi32(high)), _mm256_cmpgt_epi32(_mm256_set1_epi32(low), x));
    return _mm256_castsi256_ps(outside);
  }
  LONGHAUL_INLINE Vector select(Mask outside, Vector yes, Vector no) { return _mm256_blendv_ps(yes, no, outside); }

  /// Eight rows of eight words, transposed.
  LONGHAUL_INLINE void transpose(const float* from, std::ptrdiff_t stride, float* to, std::ptrdiff_t to_stride) {
    for (int i = 0; i < 8; ++i)
      for (int j = 0; j < 8; ++j) to[j * to_stride + i] = from[i * stride + j];
  }
};

}  // namespace

extern const AttentionTileKernels attention_avx2_float32, attention_avx2_bfloat16;
constinit const AttentionTileKernels attention_avx2_float32 = attention_tile_kernels<FloatWords<Avx2, float>>;
constinit const AttentionTileKernels attention_avx2_bfloat16 = attention_tile_kernels<FloatWords<Avx2, std::uint16_t>>;

}  // namespace longhaul::cpu
