// Muon's step: a moment, its orthogonal matrix by Newton-Schulz iterations, and the parameter that follows it.
#pragma once
#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "kernels/cpu/matmul.h"

namespace longhaul {
class ThreadPool;
}
namespace longhaul::cpu {

/// g = gradient * coefficient;  m = momentum * m + (1 - momentum) * g
/// update = m, or (1 - momentum) * g + momentum * m with nesterov
struct MuonMomentum {
  DType type;            ///< of the update: float32 or float64
  DType moment_type;     ///< the same or bfloat16, to which m is rounded after the step
  void* m;               ///< [count], in place
  void* update;          ///< [count], written
  DType gradient_type;   ///< any floating type
  const void* gradient;  ///< [count]
  std::int64_t count;
  const double* coefficient;
  double momentum;
  bool nesterov;
};
void muon_momentum(ThreadPool& pool, const MuonMomentum& problem);

/// p = p * (1 - learning_rate * weight_decay) - learning_rate * scale * update, in place
struct MuonStep {
  DType type;          ///< float32 or float64
  void* parameter;     ///< [count]
  const void* update;  ///< [count]
  std::int64_t count;
  const double* learning_rate;
  double scale, weight_decay;
};
void muon_step(ThreadPool& pool, const MuonStep& problem);

/// Newton-Schulz: X = x / max(|x|, 1e-7); five times A = X XT, X = a X + (b A + c A A) X, with the smaller side of the
/// matrix in A. (a, b, c) = (3.4445, -4.775, 2.0315): singular values come to about 1.
struct Orthogonalize {
  DType type;  ///< float32 or float64
  std::int64_t rows, columns;
  const void* x;  ///< [rows, columns]
  void* y;        ///< [rows, columns], written; not x
};

/// Planned once, run often, by one caller at a time; see Matmul.
class Orthogonalizer {
 public:
  Orthogonalizer(DType type, std::int64_t rows, std::int64_t columns, int threads, MatmulLibraries* libraries);
  /// Aligned to 64.
  std::size_t scratch_bytes() const;
  void run(ThreadPool& pool, const void* x, void* y, void* scratch);

 private:
  template <typename T>
  void iterate(ThreadPool& pool, const T* x, T* y, char* scratch);
  DType type_;
  std::int64_t rows_, columns_, least_;
  Matmul gram_, square_, product_;
};

namespace reference {
void muon_momentum(const MuonMomentum& problem);
void muon_step(const MuonStep& problem);
void orthogonalize(const Orthogonalize& problem);
}  // namespace reference

}  // namespace longhaul::cpu
