// Scalars of a step: counts, sums of squares, the clipping coefficient. All results are doubles.
#pragma once
#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "kernels/cpu/vector_table.h"

namespace longhaul {
class ThreadPool;
}
namespace longhaul::cpu {

/// *result = the number of labels that are not ignored (>= 0).
void count_valid(const std::int32_t* labels, std::int64_t count, double* result);

/// *result = sum of x^2. Blocks of 4096 elements are summed in the arithmetic type, blocks in double.
struct SumOfSquares {
  DType type;
  const void* x;  ///< [count]
  std::int64_t count;
  double* result;
  void* scratch = nullptr;  ///< sum_of_squares_scratch_bytes(); the reference needs none
};
std::size_t sum_of_squares_scratch_bytes(std::int64_t count);
void sum_of_squares(ThreadPool& pool, const SumOfSquares& problem, const VectorTable& table = vector_table());

/// *norm = sqrt(sum_of_squares); *coefficient = min(1, max_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_.
/// max_norm <= 0 means no clipping (coefficient 1). A norm that is NaN or infinite passes on as NaN or 0.
void clip_coefficient(double sum_of_squares, double max_norm, double* coefficient, double* norm);

namespace reference {
void sum_of_squares(const SumOfSquares& problem);
}

}  // namespace longhaul::cpu
