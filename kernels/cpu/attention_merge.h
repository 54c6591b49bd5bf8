// The merge of two partial attention results by log-sum-exp.
#pragma once
#include <cstdint>

#include "base/dtype.h"

namespace longhaul {
class ThreadPool;
}
namespace longhaul::cpu {

/// For every query row with statistics a and b: l = log(e^a + e^b), computed as m + log(e^(a−m) + e^(b−m)) with m =
/// max(a, b); out = e^(a−l) · out_a + e^(b−l) · out_b. A row that saw no key on either side has l = −inf and out 0.
struct AttentionMerge {
  DType type;  ///< of everything: float32 or float64
  const void* out_a;
  const void* log_sum_exp_a;
  const void* out_b;
  const void* log_sum_exp_b;
  void* out;          ///< [batch, queries, heads, head_dim]; may be out_a
  void* log_sum_exp;  ///< [batch, heads, queries]; may be log_sum_exp_a
  std::int64_t batch, queries, heads, head_dim;
};

void attention_merge(ThreadPool& pool, const AttentionMerge& problem);

}  // namespace longhaul::cpu
