// Rotary position embedding, half-split layout: element i of a head is rotated with element i + rotary_dim / 2.
#pragma once
#include <cstdint>

#include "base/dtype.h"
#include "kernels/cpu/vector_table.h"

namespace longhaul {
class ThreadPool;
}
namespace longhaul::cpu {

/// table[i] = (scale * cos(a_0), ..., scale * cos(a_half-1), scale * sin(a_0), ..., scale * sin(a_half-1)) with
/// a_j = position[i] * inverse_frequency[j], computed in double; times 1 + growth ln(1 + position[i] / growth_length),
/// the quotient without its fraction.
struct RopeTable {
  const std::int32_t* position;     ///< [n]
  const double* inverse_frequency;  ///< [rotary_dim / 2]
  double scale;                     ///< YaRN's attention factor; 1 otherwise
  DType table_type;                 ///< float32 or float64
  void* table;                      ///< [n, rotary_dim]
  std::int64_t n, rotary_dim;       ///< rotary_dim is even
  double growth = 0;
  std::int64_t growth_length = 1;
};

/// Rotates the first rotary_dim elements of each head and copies the rest. `inverse` applies the transposed matrix,
/// which is the gradient.
struct Rope {
  DType type;         ///< of x and y
  const void* x;      ///< n rows of [heads, head_dim]
  void* y;            ///< the same shape; may be x (with equal strides)
  DType table_type;   ///< float32 or float64
  const void* table;  ///< [n, rotary_dim]
  std::int64_t n, heads, head_dim, rotary_dim;
  std::int64_t x_stride = 0;  ///< elements from row to row; 0 means heads * head_dim (larger: a slice of fused q, k, v)
  std::int64_t y_stride = 0;
  bool inverse = false;
};

void rope_table(ThreadPool& pool, const RopeTable& problem);
void rope(ThreadPool& pool, const Rope& problem, const VectorTable& table = vector_table());

namespace reference {
void rope_table(const RopeTable& problem);
void rope(const Rope& problem);
}  // namespace reference

}  // namespace longhaul::cpu
