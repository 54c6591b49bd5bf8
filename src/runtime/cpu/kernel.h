// The CPU as a back end of src/runtime/kernel.h. kernels_*.cpp beside this file bind ops to the plain-pointer functions
// in kernels/cpu.
#pragma once
#include <memory>

#include "runtime/kernel.h"

namespace longhaul {

class CopyThread;
class ThreadPool;
namespace cpu {
class MatmulLibraries;
}

/// What the CPU's kernels are made for and run with: one a rank, for one caller at a time.
class CpuContext {
 public:
  static constexpr const char* name = "CPU";
  explicit CpuContext(int threads);
  ~CpuContext();
  CpuContext(const CpuContext&) = delete;
  CpuContext& operator=(const CpuContext&) = delete;

  int threads() const { return threads_; }
  /// As many threads; started when first asked for, for planning needs none.
  ThreadPool& pool();
  /// Copies while the rank computes; started when first asked for.
  CopyThread& copies();
  bool has_copies() const { return copies_ != nullptr; }
  /// Who computes matrix products; null: not settled, the first library that takes each.
  cpu::MatmulLibraries* libraries() const { return libraries_.get(); }
  void set_libraries(std::shared_ptr<cpu::MatmulLibraries> libraries);

 private:
  int threads_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<CopyThread> copies_;
  std::shared_ptr<cpu::MatmulLibraries> libraries_;
};

using CpuProblem = KernelProblem<CpuContext>;
using CpuCall = KernelCall<CpuContext>;
using CpuKernel = Kernel<CpuContext>;
using CpuCandidate = KernelCandidate<CpuContext>;
using CpuKernels = KernelRegistration<CpuContext>;
using CpuKernelCache = KernelCache<CpuContext>;

}  // namespace longhaul
