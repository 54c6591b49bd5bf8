// store_rows: copies of rows.
#include <cstring>

#include "runtime/cpu/bind.h"

namespace longhaul {
namespace {

bool make(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  const auto &cache = problem.operands[0], &rows = problem.operands[1];
  LONGHAUL_CHECK(cache.dtype == rows.dtype, "{} rows for a cache of {}", name_of(rows.dtype), name_of(cache.dtype));
  const std::int64_t batch = cache.shape[0], length = cache.shape[1], count = rows.shape[1];
  const auto row_bytes = static_cast<std::size_t>(cache.shape[2] * cache.shape[3]) * size_of(cache.dtype);
  kernel.run = [=, bytes = static_cast<std::size_t>(cache.bytes())](const CpuCall& call) {
    if (call.results[0] != call.operands[0]) std::memcpy(call.results[0], call.operands[0], bytes);
    const auto* index = static_cast<const std::int32_t*>(call.operands[2]);
    for (std::int64_t i = 0; i < batch * count; ++i) {
      if (index[i] < 0 || index[i] >= length) continue;
      const std::int64_t row = i / count * length + index[i];
      std::memcpy(static_cast<char*>(call.results[0]) + static_cast<std::size_t>(row) * row_bytes,
                  static_cast<const char*>(call.operands[1]) + static_cast<std::size_t>(i) * row_bytes, row_bytes);
    }
  };
  return true;
}

const CpuKernels store_rows("store_rows", bind::only(make));

}  // namespace
}  // namespace longhaul
