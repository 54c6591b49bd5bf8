// AdamW with decoupled weight decay, as torch.optim.AdamW.
#pragma once
#include <cstdint>

#include "base/dtype.h"
#include "kernels/cpu/vector_table.h"

namespace longhaul {
class ThreadPool;
}
namespace longhaul::cpu {

/// One step, in place:
///   g = gradient * coefficient;  p *= 1 - lr * weight_decay
///   m = beta1 * m + (1 - beta1) * g;  v = beta2 * v + (1 - beta2) * g^2
///   p -= lr / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + epsilon)
struct AdamW {
  DType type;            ///< of the parameter: float32 or float64
  void* parameter;       ///< [count]
  void* m;               ///< [count] of moment_type
  void* v;               ///< [count] of moment_type
  DType gradient_type;   ///< any floating type
  const void* gradient;  ///< [count]
  std::int64_t count;
  const double* coefficient;  ///< the clipping coefficient
  const double* learning_rate;
  const double* step;  ///< 1 at the first step
  double beta1, beta2, epsilon, weight_decay;
  /// bfloat16: m and v are rounded to it once the step is computed; anything else: they are of `type`.
  DType moment_type = DType::float32;
  bfloat16* copy = nullptr;  ///< [count], the new parameter rounded to bfloat16, or none
};

void adamw(ThreadPool& pool, const AdamW& problem, const VectorTable& table = vector_table());
namespace reference {
void adamw(const AdamW& problem);
}

}  // namespace longhaul::cpu
