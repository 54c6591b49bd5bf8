// Rows of a table by token number.
#pragma once
#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "kernels/cpu/vector_table.h"

namespace longhaul {
class ThreadPool;
}
namespace longhaul::cpu {

/// y[i] = table[tokens[i]]. The loader has checked that every token is in [0, v).
struct Embedding {
  DType type;
  const std::int32_t* tokens;  ///< [n]
  const void* table;           ///< [v, d]
  void* y;                     ///< [n, d]
  std::int64_t n, v, d;
};

/// dtable[t] = sum of dy[i] over the i with tokens[i] = t, added in order of i and rounded once; rows that no token
/// names become zero.
struct EmbeddingGradient {
  DType type;                  ///< of dy
  const std::int32_t* tokens;  ///< [n], each in [0, v)
  const void* dy;              ///< [n, d]
  DType dtable_type;           ///< any floating type
  void* dtable;                ///< [v, d]
  std::int64_t n, v, d;
  void* scratch = nullptr;  ///< embedding_gradient_scratch_bytes()
  bool accumulate = false;  ///< adds to dtable instead of overwriting it: only rows that occur are touched
};

void embedding(ThreadPool& pool, const Embedding& problem);
std::size_t embedding_gradient_scratch_bytes(std::int64_t n, std::int64_t v);
void embedding_gradient(ThreadPool& pool, const EmbeddingGradient& problem, const VectorTable& table = vector_table());

namespace reference {
void embedding(const Embedding& problem);
/// Needs no scratch.
void embedding_gradient(const EmbeddingGradient& problem);
}  // namespace reference

}  // namespace longhaul::cpu
