// Root-mean-square normalisation of rows, alone or fused with the addition that usually precedes it.
#pragma once
#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "kernels/cpu/vector_table.h"

namespace longhaul {
class ThreadPool;
}
namespace longhaul::cpu {

/// y = (w + weight_offset) * s / sqrt(mean(s^2) + epsilon) over rows of d elements, where s = x, or x + residual when
/// `residual` is set.
struct RmsNorm {
  DType type;                      ///< of x, residual, sum and y
  const void* x;                   ///< [rows, d]
  const void* residual = nullptr;  ///< [rows, d] or none
  void* sum = nullptr;             ///< [rows, d], s as stored (and normalised as stored); set exactly when residual is
  DType weight_type;               ///< `type` or float32
  const void* weight;              ///< [d]
  void* y;                         ///< [rows, d]; may be x
  std::int64_t rows, d;
  double epsilon;
  double weight_offset = 0;
};

/// Gradient of RmsNorm. With `residual_gradient`, what already flows into s is added: dx is then the gradient of both
/// addends of s.
struct RmsNormGradient {
  DType type;                               ///< of x, dy, residual_gradient and dx
  const void* x;                            ///< [rows, d]; the stored s when the norm was fused
  DType weight_type;                        ///< `type` or float32
  const void* weight;                       ///< [d]
  const void* dy;                           ///< [rows, d]
  const void* residual_gradient = nullptr;  ///< [rows, d] or none
  void* dx;                                 ///< [rows, d]; may be dy or residual_gradient
  DType dweight_type;                       ///< any floating type
  void* dweight;                            ///< [d], written, not added to
  std::int64_t rows, d;
  double epsilon;
  double weight_offset = 0;
  void* scratch = nullptr;  ///< rms_norm_gradient_scratch_bytes(); the reference needs none
};

void rms_norm(ThreadPool& pool, const RmsNorm& problem, const VectorTable& table = vector_table());
std::size_t rms_norm_gradient_scratch_bytes(DType type, std::int64_t rows, std::int64_t d);
void rms_norm_gradient(ThreadPool& pool, const RmsNormGradient& problem, const VectorTable& table = vector_table());

namespace reference {
void rms_norm(const RmsNorm& problem);
void rms_norm_gradient(const RmsNormGradient& problem);
}  // namespace reference

}  // namespace longhaul::cpu
