#include "runtime/cpu/kernel.h"

#include "kernels/cpu/matmul_libraries.h"
#include "kernels/cpu/thread_pool.h"
#include "runtime/cpu/copy_thread.h"

namespace longhaul {

CpuContext::CpuContext(int threads) : threads_(threads) {}
CpuContext::~CpuContext() = default;

ThreadPool& CpuContext::pool() {
  if (!pool_) pool_ = std::make_unique<ThreadPool>(threads_);
  return *pool_;
}

CopyThread& CpuContext::copies() {
  if (!copies_) copies_ = std::make_unique<CopyThread>();
  return *copies_;
}

void CpuContext::set_libraries(std::shared_ptr<cpu::MatmulLibraries> libraries) {
  libraries_ = std::move(libraries);
}

}  // namespace longhaul
