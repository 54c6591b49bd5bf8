// Inner loops of the activations.
#pragma once
#include "kernels/cpu/activation.h"
#include "kernels/cpu/vector_math.h"

namespace longhaul::cpu {
namespace {

template <typename A>
struct ValueAndSlope {
  Lanes<A> value, slope;
};

/// e^-2u with u = sqrt(2/pi) (x + 0.044715 x^3), the argument of gelu's tanh approximation: (1 + tanh(u)) / 2 is
/// sigmoid(2 u), which keeps its digits where tanh is near -1.
LONGHAUL_INLINE Lanes<double> gelu_tanh_exponential(Lanes<double> x, Lanes<double> square) {
  return exponential(-x * (square * 0.07135481627260025 + 1.5957691216057308));
}
LONGHAUL_INLINE Lanes<float> gelu_tanh_exponential(Lanes<float> x, Lanes<float> square) {
#if defined(__AVX512F__)
  // In sixteenths of octaves, so that the exponential need not scale it; the argument is rounded in either case.
  Lanes<float> y = x * (square * -1.64709183f - 36.8353312f);
  const __mmask16 mask = _mm512_cmp_ps_mask((__m512)y, (__m512)broadcast(-2016.0f), _CMP_NLT_UQ);
  y = (Lanes<float>)_mm512_min_ps((__m512)broadcast(2032.0f), (__m512)y);
  const Lanes<float> shifted = y + 12582912.0f;
  return sixteenth_power(shifted, y - (shifted - 12582912.0f), mask);
#else
  return exponential(-x * (square * 0.0713548163f + 1.59576912f));
#endif
}

/// f(x) alone.
template <ActivationKind kind, typename A>
LONGHAUL_INLINE Lanes<A> activate(Lanes<A> x) {
  if constexpr (kind == ActivationKind::silu)
    return x / (1 + exponential(-x));
  else if constexpr (kind == ActivationKind::gelu)
    return x * normal(x).distribution;
  else if constexpr (kind == ActivationKind::gelu_tanh)
    return x / (1 + gelu_tanh_exponential(x, x * x));
  else
    return x > 0 ? x : Lanes<A>{};
}
/// f(x) and f'(x).
template <ActivationKind kind, typename A>
LONGHAUL_INLINE ValueAndSlope<A> activate_with_slope(Lanes<A> x) {
  if constexpr (kind == ActivationKind::silu) {
    const Sigmoid<Lanes<A>> s = sigmoid_of(exponential(-x));
    return {x * s.value, s.value * (1 + x * s.rest)};
  } else if constexpr (kind == ActivationKind::gelu) {
    const Normal<Lanes<A>> of = normal(x);
    return {x * of.distribution, of.distribution + x * of.density};
  } else if constexpr (kind == ActivationKind::gelu_tanh) {
    const Lanes<A> square = x * x;
    const Sigmoid<Lanes<A>> s = sigmoid_of(gelu_tanh_exponential(x, square));
    const Lanes<A> twice = x * (square * static_cast<A>(3 * 0.07135481627260025) + static_cast<A>(1.5957691216057308));
    return {x * s.value, s.value * (1 + twice * s.rest)};
  } else {
    return {x > 0 ? x : Lanes<A>{}, x > 0 ? Lanes<A>{} + 1 : Lanes<A>{}};
  }
}

/// Calls function(std::integral_constant<ActivationKind, kind>).
template <typename Function>
LONGHAUL_INLINE void with_kind(ActivationKind kind, Function function) {
  switch (kind) {
    case ActivationKind::silu:
      return function(std::integral_constant<ActivationKind, ActivationKind::silu>{});
    case ActivationKind::gelu:
      return function(std::integral_constant<ActivationKind, ActivationKind::gelu>{});
    case ActivationKind::gelu_tanh:
      return function(std::integral_constant<ActivationKind, ActivationKind::gelu_tanh>{});
    case ActivationKind::relu:
      return function(std::integral_constant<ActivationKind, ActivationKind::relu>{});
  }
}

template <typename T>
LONGHAUL_LOOP void activation_range(const Activation& p, std::int64_t begin, std::int64_t end) {
  using A = accumulate_t<T>;
  const T* x = static_cast<const T*>(p.x) + begin;
  T* y = static_cast<T*>(p.y) + begin;
  const bool streamed = past_caches(p.y, p.count * static_cast<std::int64_t>(sizeof(T)), 64, p.x);
  with_kind(
      p.kind, [&](auto kind) __attribute__((always_inline)) {
        each_vector_to<A>(y, end - begin, streamed,
                          [&](std::int64_t i, auto part) { return activate<kind.value, A>(load(x + i, part)); });
      });
  settle(streamed);
}

template <typename T>
LONGHAUL_LOOP void activation_gradient_range(const ActivationGradient& p, std::int64_t begin, std::int64_t end) {
  using A = accumulate_t<T>;
  const T* x = static_cast<const T*>(p.x) + begin;
  const T* dy = static_cast<const T*>(p.dy) + begin;
  T* dx = static_cast<T*>(p.dx) + begin;
  const bool streamed = past_caches(p.dx, p.count * static_cast<std::int64_t>(sizeof(T)), 64, p.x, p.dy);
  with_kind(
      p.kind, [&](auto kind) __attribute__((always_inline)) {
        each_vector_to<A>(dx, end - begin, streamed, [&](std::int64_t i, auto part) {
          return load(dy + i, part) * activate_with_slope<kind.value, A>(load(x + i, part)).slope;
        });
      });
  settle(streamed);
}

template <typename T>
LONGHAUL_LOOP void gated_activation_range(const GatedActivation& p, std::int64_t begin, std::int64_t end) {
  using A = accumulate_t<T>;
  const std::int64_t stride = p.input_stride ? p.input_stride : p.width;
  const std::int64_t row_bytes = p.width * static_cast<std::int64_t>(sizeof(T));
  const bool streamed = past_caches(p.y, p.rows * row_bytes, row_bytes, p.gate, p.up);
  with_kind(
      p.kind, [&](auto kind) __attribute__((always_inline)) {
        for (std::int64_t row = begin; row < end; ++row) {
          const T* gate = static_cast<const T*>(p.gate) + row * stride;
          const T* up = static_cast<const T*>(p.up) + row * stride;
          T* y = static_cast<T*>(p.y) + row * p.width;
          each_vector_to<A>(y, p.width, streamed, [&](std::int64_t i, auto part) {
            return activate<kind.value, A>(load(gate + i, part)) * load(up + i, part);
          });
        }
      });
  settle(streamed);
}

template <typename T>
LONGHAUL_LOOP void gated_activation_gradient_range(const GatedActivationGradient& p, std::int64_t begin,
                                                   std::int64_t end) {
  using A = accumulate_t<T>;
  const std::int64_t stride = p.input_stride ? p.input_stride : p.width;
  const std::int64_t row_bytes = stride * static_cast<std::int64_t>(sizeof(T));
  const bool streamed = past_caches(p.dgate, p.rows * row_bytes, row_bytes, p.gate, p.up, p.dy) &&
                        past_caches(p.dup, p.rows * row_bytes, row_bytes, p.gate, p.up, p.dy);
  with_kind(
      p.kind, [&](auto kind) __attribute__((always_inline)) {
        for (std::int64_t row = begin; row < end; ++row) {
          const T* gate = static_cast<const T*>(p.gate) + row * stride;
          const T* up = static_cast<const T*>(p.up) + row * stride;
          const T* dy = static_cast<const T*>(p.dy) + row * p.width;
          T* dgate = static_cast<T*>(p.dgate) + row * stride;
          T* dup = static_cast<T*>(p.dup) + row * stride;
          each_vector_to<A>(dgate, dup, p.width, streamed, [&](std::int64_t i, auto part) {
            const ValueAndSlope<A> of = activate_with_slope<kind.value, A>(load(gate + i, part));
            const Lanes<A> upper = load(dy + i, part), gated = load(up + i, part);
            return Two<A>{upper * gated * of.slope, upper * of.value};
          });
        }
      });
  settle(streamed);
}

}  // namespace
}  // namespace longhaul::cpu
