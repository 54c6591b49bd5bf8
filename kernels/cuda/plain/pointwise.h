// RoPE, activations and the optimizers in plain loops.
#pragma once
#include <cmath>
#include <cstdint>

#include "kernels/cuda/api.h"

namespace longhaul::cuda::plain {

/// x, y [tokens, heads, head_dim]: pairs (x[i], x[i + rotated / 2]) turn by position * inverse_frequencies[i].
template <typename Scalar>
void rope(std::int64_t tokens, std::int64_t heads, std::int64_t head_dim, std::int64_t rotated, bool inverse,
          const std::int32_t* position, const double* inverse_frequencies, double scale, const Scalar* x, Scalar* y) {
  for (std::int64_t t = 0; t < tokens; t++)
    for (std::int64_t h = 0; h < heads; h++)
      for (std::int64_t d = 0; d < head_dim; d++) {
        const Scalar* head = x + (t * heads + h) * head_dim;
        Scalar& to = y[(t * heads + h) * head_dim + d];
        if (d >= rotated) {
          to = head[d];
          continue;
        }
        const std::int64_t half = rotated / 2, i = d % half;
        const double angle = position[t] * inverse_frequencies[i];
        const Scalar c = static_cast<Scalar>(scale * std::cos(angle));
        const Scalar s = static_cast<Scalar>((inverse ? -scale : scale) * std::sin(angle));
        to = d < half ? head[i] * c - head[i + half] * s : head[i + half] * c + head[i] * s;
      }
}

template <typename Scalar>
Scalar activation(Activation kind, Scalar x) {
  if (kind == Activation::silu) return x / (1 + std::exp(-x));
  if (kind == Activation::gelu) return x * (1 + std::erf(x / std::sqrt(Scalar(2)))) / 2;
  if (kind == Activation::gelu_tanh)
    return x *
           (1 + std::tanh(std::sqrt(Scalar(2) / Scalar(3.14159265358979323846)) * (x + Scalar(0.044715) * x * x * x))) /
           2;
  return x > 0 ? x : 0;
}
/// By central differences in double: nothing shared with the kernels' formulas.
inline double activation_slope(Activation kind, double x) {
  const double h = 1e-6;
  return (activation(kind, x + h) - activation(kind, x - h)) / (2 * h);
}

/// One step of AdamW, as torch.optim.AdamW does it.
template <typename Scalar>
void adamw(std::int64_t count, Scalar* parameter, Scalar* first, Scalar* second, const Scalar* gradient,
           Scalar gradient_scale, Scalar learning_rate, Scalar beta1, Scalar beta2, Scalar epsilon, Scalar weight_decay,
           std::int64_t step) {
  for (std::int64_t i = 0; i < count; i++) {
    const Scalar g = gradient[i] * gradient_scale;
    parameter[i] *= 1 - learning_rate * weight_decay;
    first[i] = beta1 * first[i] + (1 - beta1) * g;
    second[i] = beta2 * second[i] + (1 - beta2) * g * g;
    const Scalar mean = first[i] / (1 - std::pow(beta1, static_cast<Scalar>(step)));
    const Scalar square = second[i] / (1 - std::pow(beta2, static_cast<Scalar>(step)));
    parameter[i] -= learning_rate * mean / (std::sqrt(square) + epsilon);
  }
}

/// One step of SGD, as torch.optim.SGD without dampening; `moment` null: no momentum.
template <typename Scalar>
void sgd(std::int64_t count, Scalar* parameter, Scalar* moment, const Scalar* gradient, Scalar gradient_scale,
         Scalar learning_rate, Scalar momentum, bool nesterov, Scalar weight_decay) {
  for (std::int64_t i = 0; i < count; i++) {
    Scalar g = gradient[i] * gradient_scale + weight_decay * parameter[i];
    if (moment) {
      moment[i] = momentum * moment[i] + g;
      g = nesterov ? g + momentum * moment[i] : moment[i];
    }
    parameter[i] -= learning_rate * g;
  }
}

/// The two halves of Muon around its orthogonal matrix.
template <typename Scalar>
void muon_momentum(std::int64_t count, Scalar* update, Scalar* moment, const Scalar* gradient, Scalar gradient_scale,
                   Scalar momentum, bool nesterov) {
  for (std::int64_t i = 0; i < count; i++) {
    const Scalar g = (1 - momentum) * gradient[i] * gradient_scale;
    moment[i] = momentum * moment[i] + g;
    update[i] = nesterov ? g + momentum * moment[i] : moment[i];
  }
}
template <typename Scalar>
void muon_step(std::int64_t count, Scalar* parameter, const Scalar* update, Scalar learning_rate, Scalar scale,
               Scalar weight_decay) {
  for (std::int64_t i = 0; i < count; i++)
    parameter[i] -= learning_rate * (weight_decay * parameter[i] + scale * update[i]);
}

}  // namespace longhaul::cuda::plain
