// Stochastic gradient descent with momentum, as torch.optim.SGD without dampening.
#pragma once
#include <cstdint>

#include "base/dtype.h"

namespace longhaul {
class ThreadPool;
}
namespace longhaul::cpu {

/// One step, in place:
///   g = gradient * coefficient + weight_decay * p
///   m = momentum * m + g, and then g = m, or g + momentum * m with nesterov    (with a moment)
///   p -= learning_rate * g
struct Sgd {
  DType type;            ///< of the parameter: float32 or float64
  void* parameter;       ///< [count]
  DType moment_type;     ///< that of the parameter or bfloat16, to which m is rounded after the step
  void* m;               ///< [count], or null: no momentum
  DType gradient_type;   ///< any floating type
  const void* gradient;  ///< [count]
  std::int64_t count;
  const double* coefficient;  ///< the clipping coefficient
  const double* learning_rate;
  double momentum, weight_decay;
  bool nesterov;
};

void sgd(ThreadPool& pool, const Sgd& problem);
namespace reference {
void sgd(const Sgd& problem);
}

}  // namespace longhaul::cpu
