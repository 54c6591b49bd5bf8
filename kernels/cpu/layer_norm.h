// Layer normalisation of rows (mean and variance), alone or fused with the addition that usually precedes it.
#pragma once
#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "kernels/cpu/vector_table.h"

namespace longhaul {
class ThreadPool;
}
namespace longhaul::cpu {

/// y = w * (s - mean(s)) / sqrt(variance(s) + epsilon) + bias over rows of d elements (variance divided by d), where
/// s = x, or x + residual when `residual` is set.
struct LayerNorm {
  DType type;                      ///< of x, residual, sum and y
  const void* x;                   ///< [rows, d]
  const void* residual = nullptr;  ///< [rows, d] or none
  void* sum = nullptr;             ///< [rows, d], s as stored (and normalised as stored); set exactly when residual is
  DType weight_type;               ///< of weight and bias: `type` or float32
  const void* weight;              ///< [d]
  const void* bias;                ///< [d]
  void* y;                         ///< [rows, d]; may be x
  std::int64_t rows, d;
  double epsilon;
};

/// Gradient of LayerNorm. With `residual_gradient`, what already flows into s is added: dx is then the gradient of both
/// addends of s.
struct LayerNormGradient {
  DType type;                               ///< of x, dy, residual_gradient and dx
  const void* x;                            ///< [rows, d]; the stored s when the norm was fused
  DType weight_type;                        ///< `type` or float32
  const void* weight;                       ///< [d]
  const void* dy;                           ///< [rows, d]
  const void* residual_gradient = nullptr;  ///< [rows, d] or none
  void* dx;                                 ///< [rows, d]; may be dy or residual_gradient
  DType dweight_type;                       ///< of dweight and dbias: any floating type
  void* dweight;                            ///< [d], written, not added to
  void* dbias;                              ///< [d], written, not added to
  std::int64_t rows, d;
  double epsilon;
  void* scratch = nullptr;  ///< layer_norm_gradient_scratch_bytes(); the reference needs none
};

void layer_norm(ThreadPool& pool, const LayerNorm& problem, const VectorTable& table = vector_table());
std::size_t layer_norm_gradient_scratch_bytes(DType type, std::int64_t rows, std::int64_t d);
void layer_norm_gradient(ThreadPool& pool, const LayerNormGradient& problem, const VectorTable& table = vector_table());

namespace reference {
void layer_norm(const LayerNorm& problem);
void layer_norm_gradient(const LayerNormGradient& problem);
}  // namespace reference

}  // namespace longhaul::cpu
