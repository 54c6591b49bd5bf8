#include "kernels/cpu/activation.h"

#include <cmath>

#include "kernels/cpu/support.h"

namespace longhaul::cpu {

namespace {
constexpr std::int64_t elements_per_task = 8192;
}

void activation(ThreadPool& pool, const Activation& p, const VectorTable& table) {
  parallel_for(pool, p.count, elements_per_task,
               [&](std::int64_t begin, std::int64_t end) { table.activation[p.type](p, begin, end); });
}

void activation_gradient(ThreadPool& pool, const ActivationGradient& p, const VectorTable& table) {
  parallel_for(pool, p.count, elements_per_task,
               [&](std::int64_t begin, std::int64_t end) { table.activation_gradient[p.type](p, begin, end); });
}

void gated_activation(ThreadPool& pool, const GatedActivation& p, const VectorTable& table) {
  parallel_for(pool, p.rows, rows_per_task(p.width),
               [&](std::int64_t begin, std::int64_t end) { table.gated_activation[p.type](p, begin, end); });
}

void gated_activation_gradient(ThreadPool& pool, const GatedActivationGradient& p, const VectorTable& table) {
  parallel_for(pool, p.rows, rows_per_task(p.width),
               [&](std::int64_t begin, std::int64_t end) { table.gated_activation_gradient[p.type](p, begin, end); });
}

namespace reference {
namespace {

constexpr double root_half = 0.70710678118654752440;  // sqrt(1/2)
constexpr double one_over_root_two_pi = 0.39894228040143267794;

template <typename A>
A sigmoid(A x) {
  return 1 / (1 + std::exp(-x));
}

/// 2 u with u = sqrt(2/pi) (x + 0.044715 x^3). (1 + tanh(u)) / 2 is taken as the sigmoid of 2 u, and 1 - sigmoid(z) as
/// sigmoid(-z): the textbook's forms cancel.
template <typename A>
A gelu_tanh_argument(A x) {
  return 2 * A(0.79788456080286535588) * (x + A(0.044715) * x * x * x);
}

template <typename A>
A value(ActivationKind kind, A x) {
  switch (kind) {
    case ActivationKind::silu:
      return x * sigmoid(x);
    case ActivationKind::gelu:
      return A(0.5) * x * std::erfc(-x * A(root_half));
    case ActivationKind::gelu_tanh:
      return x * sigmoid(gelu_tanh_argument(x));
    default:
      return x > 0 ? x : A(0);
  }
}

template <typename A>
A slope(ActivationKind kind, A x) {
  switch (kind) {
    case ActivationKind::silu: {
      return sigmoid(x) + x * sigmoid(x) * sigmoid(-x);
    }
    case ActivationKind::gelu:
      return A(0.5) * std::erfc(-x * A(root_half)) + x * A(one_over_root_two_pi) * std::exp(A(-0.5) * x * x);
    case ActivationKind::gelu_tanh: {
      const A z = gelu_tanh_argument(x);
      return sigmoid(z) + x * sigmoid(z) * sigmoid(-z) * 2 * A(0.79788456080286535588) * (1 + 3 * A(0.044715) * x * x);
    }
    default:
      return x > 0 ? A(1) : A(0);
  }
}

}  // namespace

void activation(const Activation& p) {
  dispatch_floating(p.type, [&](auto t) {
    using T = decltype(t);
    for (std::int64_t i = 0; i < p.count; ++i)
      static_cast<T*>(p.y)[i] = convert<T>(value(p.kind, read(static_cast<const T*>(p.x)[i])));
  });
}

void activation_gradient(const ActivationGradient& p) {
  dispatch_floating(p.type, [&](auto t) {
    using T = decltype(t);
    for (std::int64_t i = 0; i < p.count; ++i)
      static_cast<T*>(p.dx)[i] =
          convert<T>(read(static_cast<const T*>(p.dy)[i]) * slope(p.kind, read(static_cast<const T*>(p.x)[i])));
  });
}

void gated_activation(const GatedActivation& p) {
  dispatch_floating(p.type, [&](auto t) {
    using T = decltype(t);
    const std::int64_t stride = p.input_stride ? p.input_stride : p.width;
    for (std::int64_t row = 0; row < p.rows; ++row)
      for (std::int64_t i = 0; i < p.width; ++i)
        static_cast<T*>(p.y)[row * p.width + i] =
            convert<T>(value(p.kind, read(static_cast<const T*>(p.gate)[row * stride + i])) *
                       read(static_cast<const T*>(p.up)[row * stride + i]));
  });
}

void gated_activation_gradient(const GatedActivationGradient& p) {
  dispatch_floating(p.type, [&](auto t) {
    using T = decltype(t);
    const std::int64_t stride = p.input_stride ? p.input_stride : p.width;
    for (std::int64_t row = 0; row < p.rows; ++row) {
      for (std::int64_t i = 0; i < p.width; ++i) {
        const auto gate = read(static_cast<const T*>(p.gate)[row * stride + i]);
        const auto up = read(static_cast<const T*>(p.up)[row * stride + i]);
        const auto dy = read(static_cast<const T*>(p.dy)[row * p.width + i]);
        static_cast<T*>(p.dgate)[row * stride + i] = convert<T>(dy * up * slope(p.kind, gate));
        static_cast<T*>(p.dup)[row * stride + i] = convert<T>(dy * value(p.kind, gate));
      }
    }
  });
}

}  // namespace reference
}  // namespace longhaul::cpu
