// The CPU as a target: kernels chosen once in one cache, threads of one pool, and the libraries of matrix products.
#pragma once
#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "runtime/cpu/kernel.h"
#include "runtime/target.h"

namespace longhaul {

class CpuTarget final : public Target {
 public:
  explicit CpuTarget(const TargetOptions& options = {});
  ~CpuTarget() override;

  std::string_view name() const override { return "cpu"; }
  std::int64_t scratch_bytes(const Graph& graph, const Op& op) override;
  double peak_flops(DType dtype) override;
  void set_library_policy(const LibraryPolicy& policy, DType dtype, std::string_view key) override;
  std::string choose_libraries(std::span<const Program* const> programs, const std::string& decided) override;
  std::string libraries() const override;
  void set_libraries(const std::string& decided) override;
  std::unique_ptr<Executor> executor(Communicator& world, std::span<const Program* const> programs,
                                     const NamedBuffers& named) override;

  CpuKernelCache& kernels() { return kernels_; }

 private:
  /// What a device has chosen stays with a run that goes on here, for when it is back.
  void keep_device(const std::string& decided);

  CpuContext context_;
  CpuKernelCache kernels_;
  std::string device_;                   // what a device has chosen, JSON; empty: none
  std::atomic<std::thread::id> thread_;  // of the rank that executors were made for
};

/// Scratch of ops on a CPU target of its own: for plans that nothing runs, and tests.
ScratchBytes cpu_scratch_bytes(const TargetOptions& options = {});

}  // namespace longhaul
