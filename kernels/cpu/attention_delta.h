// What the gradient of attention needs of its output: one number a query and head instead of a row.
#pragma once
#include <cstdint>

#include "base/dtype.h"
#include "kernels/cpu/vector_table.h"

namespace longhaul {
class ThreadPool;
}
namespace longhaul::cpu {

/// delta[row] = the sum over d of out[row, d] * dout[row, d]; a row is one head of one query.
struct AttentionDelta {
  DType type;        ///< of out and dout
  const void* out;   ///< [rows, d]
  const void* dout;  ///< [rows, d]
  void* delta;       ///< [rows] float; double when type is float64
  std::int64_t rows, d;
};

void attention_delta(ThreadPool& pool, const AttentionDelta& problem, const VectorTable& table = vector_table());
namespace reference {
void attention_delta(const AttentionDelta& problem);
}

}  // namespace longhaul::cpu
