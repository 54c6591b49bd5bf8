// Activation functions of the MLP, plain and gated.
#pragma once
#include <cstdint>

#include "base/dtype.h"
#include "kernels/cpu/vector_table.h"

namespace longhaul {
class ThreadPool;
}
namespace longhaul::cpu {

/// silu: x * sigmoid(x). gelu: x * Phi(x), by erf. gelu_tanh: its tanh approximation (Hugging Face's gelu_new and
/// gelu_pytorch_tanh). relu's slope at 0 is 0.
enum class ActivationKind : std::uint8_t { silu, gelu, gelu_tanh, relu };

/// y = f(x), element by element.
struct Activation {
  ActivationKind kind;
  DType type;
  const void* x;  ///< [count]
  void* y;        ///< [count]; may be x
  std::int64_t count;
};
/// dx = dy * f'(x).
struct ActivationGradient {
  ActivationKind kind;
  DType type;
  const void* x;   ///< [count]
  const void* dy;  ///< [count]
  void* dx;        ///< [count]; may be x or dy
  std::int64_t count;
};
/// y = f(gate) * up over rows. Strides let gate and up be the halves of one [rows, 2 * width] product.
struct GatedActivation {
  ActivationKind kind;
  DType type;
  const void* gate;  ///< [rows, width], rows `input_stride` elements apart
  const void* up;    ///< likewise
  void* y;           ///< [rows, width], contiguous
  std::int64_t rows, width;
  std::int64_t input_stride = 0;  ///< 0 means width
};
/// dgate = dy * up * f'(gate); dup = dy * f(gate).
struct GatedActivationGradient {
  ActivationKind kind;
  DType type;
  const void* gate;  ///< [rows, width], rows `input_stride` elements apart
  const void* up;    ///< likewise
  const void* dy;    ///< [rows, width], contiguous
  void* dgate;       ///< like gate, with the same stride; may be gate
  void* dup;         ///< likewise; may be up
  std::int64_t rows, width;
  std::int64_t input_stride = 0;  ///< 0 means width
};

void activation(ThreadPool& pool, const Activation& problem, const VectorTable& table = vector_table());
void activation_gradient(ThreadPool& pool, const ActivationGradient& problem,
                         const VectorTable& table = vector_table());
void gated_activation(ThreadPool& pool, const GatedActivation& problem, const VectorTable& table = vector_table());
void gated_activation_gradient(ThreadPool& pool, const GatedActivationGradient& problem,
                               const VectorTable& table = vector_table());

namespace reference {
void activation(const Activation& problem);
void activation_gradient(const ActivationGradient& problem);
void gated_activation(const GatedActivation& problem);
void gated_activation_gradient(const GatedActivationGradient& problem);
}  // namespace reference

}  // namespace longhaul::cpu
