// A GPU, or the emulator of one, as a target: kernels chosen once for the device's model, plans that need no device.
#pragma once
#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "runtime/device/data_plane.h"
#include "runtime/device/kernel.h"
#include "runtime/device/shadow.h"
#include "runtime/target.h"

namespace longhaul {

class DeviceTarget final : public Target {
 public:
  /// Opens the kernels' library; a device is asked for by executor() and peak_flops(). Throws Error for options that
  /// contradict each other.
  DeviceTarget(const TargetOptions& options, cuda::Backend backend);
  /// The same on a given table of functions, which must outlive it.
  DeviceTarget(const TargetOptions& options, cuda::Backend backend, const cuda::Api& api);
  ~DeviceTarget() override;

  /// Bytes of memory of the first device that this process sees, 0 when it sees none. Throws Error when the kernels'
  /// library cannot be opened.
  static std::int64_t memory_of(cuda::Backend backend) { return Device(backend).info().memory_bytes; }

  std::string_view name() const override { return context_.device().kind(); }
  /// The device that kernels are chosen for, and how messages travel.
  std::string about(int ranks) const override;
  bool has_own_memory() const override { return true; }
  std::int64_t scratch_bytes(const Graph& graph, const Op& op) override;
  double peak_flops(DType dtype) override;
  /// Products are the vendor's library's: another is refused.
  void set_library_policy(const LibraryPolicy& policy, DType dtype, std::string_view key) override;
  /// Of products, their algorithms: on the first device of this host, which is rank 0's.
  std::string choose_libraries(std::span<const Program* const> programs, const std::string& decided) override;
  std::string libraries() const override { return context_.products().text(); }
  void set_libraries(const std::string& decided) override { context_.products().decide(decided); }
  /// The rank takes the device of its place among the ranks of its host.
  std::unique_ptr<Executor> executor(Communicator& world, std::span<const Program* const> programs,
                                     const NamedBuffers& named) override;

  DeviceKernelCache& kernels() { return kernels_; }
  const Device& device() const { return context_.device(); }

 private:
  void settle_options();
  /// Throws Error when messages would wait for the host, which programs that are graphs do not ask.
  void refuse_staged_graphs() const;

  mutable DeviceContext context_;
  DataPlaneChoice collectives_;
  std::string why_collectives_;
  DeviceKernelCache kernels_;
  std::unique_ptr<Shadow> shadow_;
  std::atomic<std::thread::id> thread_;  // of the rank that executors were made for
};

}  // namespace longhaul
