// KV heads repeated for the ranks that share them, and the sum that undoes it.
#pragma once
#include <cstdint>

#include "base/dtype.h"
#include "kernels/cpu/vector_table.h"

namespace longhaul {
class ThreadPool;
}
namespace longhaul::cpu {

/// [rows, kv_heads, head_dim] <-> [rows, heads, head_dim]; head h belongs to KV head h / (heads / kv_heads).
struct KvHeads {
  DType type;  ///< of x
  const void* x;
  DType y_type;  ///< expand: as x; reduce: any floating type
  void* y;
  std::int64_t rows, heads, kv_heads, head_dim;
};

/// y[rows, heads, :] = x[rows, kv_heads, :], repeated.
void expand_heads(ThreadPool& pool, const KvHeads& problem);
/// y[rows, kv_heads, :] = the sum of x[rows, heads, :] over each group, in order of the heads, rounded once.
void reduce_heads(ThreadPool& pool, const KvHeads& problem, const VectorTable& table = vector_table());
namespace reference {
void reduce_heads(const KvHeads& problem);
}

}  // namespace longhaul::cpu
