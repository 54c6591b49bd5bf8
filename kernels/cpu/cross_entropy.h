// Cross-entropy of logits against labels, with its gradient in the same pass over memory.
#pragma once
#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "kernels/cpu/vector_table.h"

namespace longhaul {
class ThreadPool;
}
namespace longhaul::cpu {

/// What happens to a raw logit l before the softmax: z = logits_scale * l, then, if soft_cap > 0,
/// z = soft_cap * tanh(z / soft_cap).
struct LogitTransform {
  double logits_scale = 1;
  double soft_cap = 0;
};

/// loss_sum = sum over rows with label >= 0 of log(sum_j exp(z_j)) - z_label;
/// dlogits = *scale * d(loss_sum) / d(raw logits), rows with ignored labels 0. Every output may be left out.
struct CrossEntropy {
  DType type;                  ///< of logits
  const void* logits;          ///< [rows, v], rows `stride` elements apart
  const std::int32_t* labels;  ///< [rows], each below v; negative: ignored
  std::int64_t rows, v;
  LogitTransform transform{};
  double* loss_sum = nullptr;            ///< written (0 when every label is ignored)
  void* losses = nullptr;                ///< [rows], needs loss_sum: of each row (0: ignored); float64 when `type` is,
                                         ///< else float32
  DType gradient_type = DType::float32;  ///< of dlogits: `type` or bfloat16
  void* dlogits = nullptr;               ///< [rows, v], with the same stride; may be logits when the types agree
  const double* scale = nullptr;         ///< usually 1 / valid tokens; needed with dlogits
  std::int64_t stride = 0;               ///< elements from row to row; 0 means v
  void* scratch = nullptr;               ///< cross_entropy_scratch_bytes(); the reference needs none
  void* exponentials = nullptr;          ///< set by cross_entropy() for its inner loops: a thread's part of scratch
};

/// `type` is that of the logits; `threads` that of the pool.
std::size_t cross_entropy_scratch_bytes(DType type, std::int64_t rows, std::int64_t v, int threads);
void cross_entropy(ThreadPool& pool, const CrossEntropy& problem, const VectorTable& table = vector_table());
namespace reference {
void cross_entropy(const CrossEntropy& problem);
}

}  // namespace longhaul::cpu
