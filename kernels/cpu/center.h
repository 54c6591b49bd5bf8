// Rows without their mean: what a layer norm without a bias takes the root mean square of.
#pragma once
#include <cstdint>

#include "base/dtype.h"

namespace longhaul {
class ThreadPool;
}
namespace longhaul::cpu {

/// y = x - mean(x) over rows of d elements.
struct Center {
  DType type;
  const void* x;  ///< [rows, d]
  void* y;        ///< [rows, d]; may be x
  std::int64_t rows, d;
};

void center(ThreadPool& pool, const Center& problem);

}  // namespace longhaul::cpu
