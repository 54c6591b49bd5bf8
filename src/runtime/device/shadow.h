// Shadow mode: every op that the device has run is run again by the CPU's reference kernel, on the same operands, and
// what differs stops the run and names the op. What to look at first on new hardware, and slow.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "runtime/cpu/kernel.h"
#include "runtime/device/kernel.h"

namespace longhaul {

class Shadow {
 public:
  Shadow() : kernels_(cpu_, true) {}
  /// Runs the op on the device and on the host, and waits for both. Throws Error where a result differs: by more than
  /// 1e-4 of its root mean square, 2e-2 where a tensor of the op is bfloat16, or in what is not finite.
  void run(const Graph& graph, const Op& op, const DeviceKernel& kernel, const DeviceCall& call);
  /// The same for several ops that one launch carries out.
  struct Checked {
    const Graph* graph;
    const Op* op;
    DeviceCall call;
    bool after = false;  ///< reads what another op of the launch writes
  };
  void run(std::span<const Checked> ops, const std::string& kernel, const std::function<void()>& launch);
  /// Ops checked so far.
  std::int64_t checked() const { return checked_; }

 private:
  CpuContext cpu_{1};
  CpuKernelCache kernels_;
  std::int64_t checked_ = 0;
};

}  // namespace longhaul
