// exp, tanh and the normal distribution on vectors: float by polynomials with a relative error of a few units in the
// last place, double lane by lane through the C library (float64 runs are for reference). Coefficients were fitted at
// Chebyshev nodes in 40-digit arithmetic.
#pragma once
#include "kernels/cpu/vector.h"

namespace longhaul::cpu {
namespace {

#if defined(__AVX512F__)
/// 2^(x / 16) for |rest of x| <= 1/2 + a little: `shifted` holds the nearest integer k to x in its low bits, `part` is
/// x - k. 2^(k / 16) comes from a table of sixteen in a register, and 2^(part / 16) from three terms, whose error is
/// 1e-8. Lanes outside `mask` are 0.
LONGHAUL_INLINE Lanes<float> sixteenth_power(Lanes<float> shifted, Lanes<float> part, __mmask16 mask) {
  // The bits of 2^(j / 16) less j * 2^19: adding k * 2^19 then carries only the whole octaves into the exponent.
  alignas(64) static constexpr std::uint32_t table[16] = {
      0x3f800000, 0x3f7daac3, 0x3f7b95c2, 0x3f79c3d3, 0x3f7837f0, 0x3f76f532, 0x3f75fed7, 0x3f75583f,
      0x3f7504f3, 0x3f7508a4, 0x3f75672a, 0x3f76248c, 0x3f7744fd, 0x3f78ccdf, 0x3f7ac0c7, 0x3f7d257d};
  const __m512i bits = (__m512i)shifted;
  const __m512i root = _mm512_permutexvar_epi32(bits, _mm512_load_si512(table));
  const __m512i power = _mm512_add_epi32(root, _mm512_slli_epi32(bits, 19));
  Lanes<float> p = broadcast(1.35508078e-5f);  // (ln(2) / 16)^3 / 6
  p = p * part + 9.38384793e-4f;
  p = p * part + 0.0433216988f;
  p = p * part;
  return (Lanes<float>)_mm512_maskz_fmadd_ps(mask, (__m512)p, (__m512)power, (__m512)power);
}
#endif

/// e^x, or e^(x + rest) where `rest` is small (below 0.05): what x lost to rounding. Below
/// -87.3 the result is 0, above 88 it stays at e^88; NaN stays NaN. The relative error stays below 2e-7.
template <typename... Rest>
LONGHAUL_INLINE Lanes<float> exponential(Lanes<float> x, Rest... rest) {
  const Lanes<float> low = broadcast(-87.3f), high = broadcast(88.0f);
  const float round = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
#if defined(__AVX512F__)
  const __mmask16 mask = _mm512_cmp_ps_mask((__m512)x, (__m512)low, _CMP_NLT_UQ);
  x = (Lanes<float>)_mm512_min_ps((__m512)high, (__m512)x);        // NaN stays: it is the second
  const float factor = 23.0831203f, factor_rest = 3.08154085e-7f;  // 16 / ln(2)
  const Lanes<float> shifted = (x + ... + rest) * factor + round;
  // Fused whatever the compiler's flags: the rounding of x * factor alone would cost digits of large x.
  const __m512 whole = _mm512_fmsub_ps((__m512)x, _mm512_set1_ps(factor), (__m512)(shifted - round));
  Lanes<float> part = (Lanes<float>)_mm512_fmadd_ps((__m512)x, _mm512_set1_ps(factor_rest), whole);
  ((part += rest * factor), ...);
  return sixteenth_power(shifted, part, mask);
#else
  const Integers underflow = x < low;
  x = x > high ? high : x;
  x = underflow ? low : x;
  const Lanes<float> shifted = x * 1.44269504f + round;
  const Lanes<float> n = shifted - round;
  Lanes<float> r = x - n * 0.693359375f + n * 2.12194440e-4f;  // the first product is exact
  ((r += rest), ...);
  Lanes<float> p = broadcast(1.381454003e-3f);  // minimax, 3e-9
  p = p * r + 8.368745113e-3f;
  p = p * r + 4.166839079e-2f;
  p = p * r + 1.666652040e-1f;
  p = p * r + 4.999999343e-1f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const Lanes<float> power = (Lanes<float>)(((Bits)shifted + 127u) << 23);
  return underflow ? Lanes<float>{} : p * power;
#endif
}
LONGHAUL_INLINE Lanes<double> exponential(Lanes<double> x) {
  for (int i = 0; i < lanes_in<double>; ++i) x[i] = __builtin_exp(x[i]);
  return x;
}

template <typename V>
struct Sigmoid {
  V value;  ///< 1 / (1 + e^-x)
  V rest;   ///< 1 - value, with all its digits
};
/// From e = e^-x.
LONGHAUL_INLINE Sigmoid<Lanes<float>> sigmoid_of(Lanes<float> e) {
  const Lanes<float> value = 1 / (1 + e);
  return {value, e * value};  // e stays finite
}
LONGHAUL_INLINE Sigmoid<Lanes<double>> sigmoid_of(Lanes<double> e) {
  const Lanes<double> value = 1 / (1 + e);
  return {value, e < 1 ? e * value : 1 - value};
}

LONGHAUL_INLINE Lanes<float> magnitude(Lanes<float> x) {
  return (Lanes<float>)((Bits)x & 0x7fffffffu);
}

LONGHAUL_INLINE Lanes<float> hyperbolic_tangent(Lanes<float> x) {
  const Lanes<float> size = magnitude(x), u = x * x;
  Lanes<float> p = broadcast(0.002273355114f);
  p = p * u - 0.008326662781f;
  p = p * u + 0.02176358778f;
  p = p * u - 0.05395859789f;
  p = p * u + 0.1333330073f;
  p = p * u - 0.3333333315f;
  const Lanes<float> near_zero = x + x * (u * p);
  const Lanes<float> far = 1 - 2 / (exponential(2 * size) + 1);
  const Lanes<float> signed_far = (Lanes<float>)((Bits)far | ((Bits)x & 0x80000000u));
  return size < 0.625f ? near_zero : signed_far;
}
LONGHAUL_INLINE Lanes<double> hyperbolic_tangent(Lanes<double> x) {
  for (int i = 0; i < lanes_in<double>; ++i) x[i] = __builtin_tanh(x[i]);
  return x;
}

template <typename V>
struct Normal {
  V distribution;  ///< Phi(x)
  V density;       ///< phi(x)
};
/// The standard normal distribution and density.
LONGHAUL_INLINE Normal<Lanes<float>> normal(Lanes<float> x) {
  // Phi(-|x|) = erfc(z) / 2 with z = |x| / sqrt(2), and erfc(z) = exp(-z^2) t P(t) with t = 1 / (1 + 0.4 z). The
  // exponent -x^2 / 2 is split into an exact square of 12 bits and the rest, or the far tail would lose digits.
  Lanes<float> size = magnitude(x);
  size = size > 14.0f ? broadcast(14.0f) : size;  // the density of 14 is 0 in float
  const Lanes<float> z = size * 0.707106781f;
  const Lanes<float> head = (Lanes<float>)((Bits)size & 0xfffff000u);
  const Lanes<float> bell = exponential(-0.5f * head * head, -0.5f * (size - head) * (size + head));
  const Lanes<float> t = 1 / (1 + 0.4f * z);
  Lanes<float> p = broadcast(-0.01469214197f);
  p = p * t + 0.05537440143f;
  p = p * t - 0.01720301861f;
  p = p * t - 0.1850360873f;
  p = p * t + 0.2564127142f;
  p = p * t - 0.1053052034f;
  p = p * t + 0.1981890372f;
  p = p * t + 0.1498268979f;
  p = p * t + 0.2114481558f;
  p = p * t + 0.2252928093f;
  p = p * t + 0.2256924346f;
  const Lanes<float> tail = 0.5f * bell * (t * p);
  return {x > 0 ? 1 - tail : tail, 0.398942280f * bell};
}
LONGHAUL_INLINE Normal<Lanes<double>> normal(Lanes<double> x) {
  Normal<Lanes<double>> result;
  for (int i = 0; i < lanes_in<double>; ++i) {
    result.distribution[i] = 0.5 * __builtin_erfc(-x[i] * 0.70710678118654752440);
    result.density[i] = 0.39894228040143267794 * __builtin_exp(-0.5 * x[i] * x[i]);
  }
  return result;
}

}  // namespace
}  // namespace longhaul::cpu
