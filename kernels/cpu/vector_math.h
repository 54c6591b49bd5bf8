// exp, tanh and the normal distribution on vectors: float by polynomials with a relative error of a few units in the
// last place, double lane by lane through the C library (float64 runs are for reference). Coefficients were fitted at
// Chebyshev nodes in 40-digit arithmetic.
#pragma once
#include "kernels/cpu/vector.h"

namespace longhaul::cpu {
namespace {

/// e^(x + rest) = 2^n e^r with |r| <= ln(2)/2 + |rest|; `rest` is small (below 0.05): what x lost to rounding. Below
/// -87.3 the result is 0, above 88 it stays at e^88; NaN stays NaN.
LONGHAUL_INLINE Lanes<float> exponential(Lanes<float> x, Lanes<float> rest = Lanes<float>{}) {
  const Lanes<float> low = broadcast(-87.3f), high = broadcast(88.0f);
  const Integers underflow = x < low;
  x = x > high ? high : x;
  x = underflow ? low : x;
  const float round = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const Lanes<float> shifted = x * 1.44269504f + round;
  const Lanes<float> n = shifted - round;
  const Lanes<float> r = (x - n * 0.693359375f) + (n * 2.12194440e-4f + rest);  // the first product is exact
  Lanes<float> p = broadcast(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const Lanes<float> power = (Lanes<float>)(((Bits)shifted + 127u) << 23);
  return underflow ? Lanes<float>{} : p * power;
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
template <typename V>
LONGHAUL_INLINE Sigmoid<V> sigmoid(V x) {
  const V e = exponential(-x), value = 1 / (1 + e);
  return {value, x > 0 ? e * value : 1 - value};
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
