// Sums, scalings, biases, casts and copies: one pass over memory each.
#pragma once
#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "kernels/cpu/vector_table.h"

namespace longhaul {
class ThreadPool;
}
namespace longhaul::cpu {

/// y = inputs[0] + inputs[1] + ..., added from left to right in the arithmetic type and rounded once.
struct Add {
  DType type;
  const void* const* inputs;  ///< `operands` pointers to [count]
  int operands;               ///< at least 1
  void* y;                    ///< [count]; may be any input
  std::int64_t count;
};
/// y = x * factor * (factor_pointer ? *factor_pointer : 1).
struct Scale {
  DType type;
  const void* x;  ///< [count]
  void* y;        ///< [count]; may be x
  std::int64_t count;
  double factor = 1;
  const double* factor_pointer = nullptr;  ///< a factor that is known at run time only
};
/// y = x + bias, the bias added to every row.
struct AddBias {
  DType type;        ///< of x and y
  const void* x;     ///< [rows, d]
  DType bias_type;   ///< `type` or float32
  const void* bias;  ///< [d]
  void* y;           ///< [rows, d]; may be x
  std::int64_t rows, d;
};
/// out[j] = sum over i of x[i][j]: the gradient of a bias.
struct SumRows {
  DType type;      ///< of x
  const void* x;   ///< [rows, d]
  DType out_type;  ///< any floating type
  void* out;       ///< [d]
  std::int64_t rows, d;
  void* scratch = nullptr;  ///< sum_rows_scratch_bytes(); the reference needs none
};
/// y = x in another floating type, rounded to nearest even.
struct Cast {
  DType from;
  const void* x;  ///< [count]
  DType to;
  void* y;  ///< [count]; may be x when the types are equally wide
  std::int64_t count;
};

void add(ThreadPool& pool, const Add& problem, const VectorTable& table = vector_table());
void scale(ThreadPool& pool, const Scale& problem, const VectorTable& table = vector_table());
void add_bias(ThreadPool& pool, const AddBias& problem, const VectorTable& table = vector_table());
std::size_t sum_rows_scratch_bytes(DType type, std::int64_t rows, std::int64_t d);
void sum_rows(ThreadPool& pool, const SumRows& problem, const VectorTable& table = vector_table());
void cast(ThreadPool& pool, const Cast& problem, const VectorTable& table = vector_table());
/// Copies bytes between buffers that do not overlap.
void copy(ThreadPool& pool, const void* source, void* target, std::size_t bytes);
/// Sets every element to `value`, converted to the type (int32 included).
void fill(ThreadPool& pool, DType type, double value, void* target, std::int64_t count);

namespace reference {
void add(const Add& problem);
void scale(const Scale& problem);
void add_bias(const AddBias& problem);
void sum_rows(const SumRows& problem);
void cast(const Cast& problem);
}  // namespace reference

}  // namespace longhaul::cpu
