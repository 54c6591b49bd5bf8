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

/// f(x) and f'(x); the compiler drops what the caller does not use.
template <ActivationKind kind, typename A>
LONGHAUL_INLINE ValueAndSlope<A> activate(Lanes<A> x) {
  if constexpr (kind == ActivationKind::silu) {
    const Sigmoid<Lanes<A>> s = sigmoid(x);
    return {x * s.value, s.value + x * s.value * s.rest};
  } else if constexpr (kind == ActivationKind::gelu) {
    const Normal<Lanes<A>> of = normal(x);
    return {x * of.distribution, of.distribution + x * of.density};
  } else if constexpr (kind == ActivationKind::gelu_tanh) {
    // (1 + tanh(u)) / 2 is sigmoid(2 u), which keeps its digits where tanh is near -1; 2 u = a x + b x^3.
    constexpr A a = static_cast<A>(1.5957691216057308), b = static_cast<A>(0.07135481627260025);
    const Lanes<A> square = x * x;
    const Sigmoid<Lanes<A>> s = sigmoid(x * (square * b + a));
    return {x * s.value, s.value + x * s.value * s.rest * (square * (3 * b) + a)};
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
  with_kind(
      p.kind, [&](auto kind) __attribute__((always_inline)) {
        each_vector<A>(end - begin, [&](std::int64_t i, auto part) {
          store(y + i, activate<kind.value, A>(load(x + i, part)).value, part);
        });
      });
}

template <typename T>
LONGHAUL_LOOP void activation_gradient_range(const ActivationGradient& p, std::int64_t begin, std::int64_t end) {
  using A = accumulate_t<T>;
  const T* x = static_cast<const T*>(p.x) + begin;
  const T* dy = static_cast<const T*>(p.dy) + begin;
  T* dx = static_cast<T*>(p.dx) + begin;
  with_kind(
      p.kind, [&](auto kind) __attribute__((always_inline)) {
        each_vector<A>(end - begin, [&](std::int64_t i, auto part) {
          store(dx + i, load(dy + i, part) * activate<kind.value, A>(load(x + i, part)).slope, part);
        });
      });
}

template <typename T>
LONGHAUL_LOOP void gated_activation_range(const GatedActivation& p, std::int64_t begin, std::int64_t end) {
  using A = accumulate_t<T>;
  const std::int64_t stride = p.input_stride ? p.input_stride : p.width;
  with_kind(
      p.kind, [&](auto kind) __attribute__((always_inline)) {
        for (std::int64_t row = begin; row < end; ++row) {
          const T* gate = static_cast<const T*>(p.gate) + row * stride;
          const T* up = static_cast<const T*>(p.up) + row * stride;
          T* y = static_cast<T*>(p.y) + row * p.width;
          each_vector<A>(p.width, [&](std::int64_t i, auto part) {
            store(y + i, activate<kind.value, A>(load(gate + i, part)).value * load(up + i, part), part);
          });
        }
      });
}

template <typename T>
LONGHAUL_LOOP void gated_activation_gradient_range(const GatedActivationGradient& p, std::int64_t begin,
                                                   std::int64_t end) {
  using A = accumulate_t<T>;
  const std::int64_t stride = p.input_stride ? p.input_stride : p.width;
  with_kind(
      p.kind, [&](auto kind) __attribute__((always_inline)) {
        for (std::int64_t row = begin; row < end; ++row) {
          const T* gate = static_cast<const T*>(p.gate) + row * stride;
          const T* up = static_cast<const T*>(p.up) + row * stride;
          const T* dy = static_cast<const T*>(p.dy) + row * p.width;
          T* dgate = static_cast<T*>(p.dgate) + row * stride;
          T* dup = static_cast<T*>(p.dup) + row * stride;
          each_vector<A>(p.width, [&](std::int64_t i, auto part) {
            const ValueAndSlope<A> of = activate<kind.value, A>(load(gate + i, part));
            const Lanes<A> upper = load(dy + i, part), gated = load(up + i, part);
            store(dgate + i, upper * gated * of.slope, part);
            store(dup + i, upper * of.value, part);
          });
        }
      });
}

}  // namespace
}  // namespace longhaul::cpu
