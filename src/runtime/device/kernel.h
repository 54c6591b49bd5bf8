// A device as a back end of src/runtime/kernel.h. kernels_*.cpp beside this file bind ops to the calls of
// kernels/cuda/api.h. A kernel queues its work and returns.
#pragma once
#include "runtime/device/device.h"
#include "runtime/device/products.h"
#include "runtime/kernel.h"

namespace longhaul {

/// What a device's kernels are made for and run with: one a rank.
class DeviceContext {
 public:
  static constexpr const char* name = "device";
  explicit DeviceContext(cuda::Backend backend) : device_(backend) {}
  /// On a given table of functions, which must outlive it.
  DeviceContext(cuda::Backend backend, const cuda::Api& api) : device_(backend, api) {}

  Device& device() { return device_; }
  const cuda::Api& api() const { return device_.api(); }
  cuda::Stream stream() const { return device_.stream(); }
  void succeed(int status) const { device_.succeed(status); }
  ProductPlans& products() { return products_; }
  /// What a product by the vendor's library may use, in the plan. The emulator's needs none.
  std::size_t product_workspace() const {
    if (device_.is_emulated()) return 0;
    return static_cast<std::size_t>(device_.info().capability_major >= 9 ? 32 : 4) << 20;
  }

 private:
  Device device_;
  ProductPlans products_{device_};
};

using DeviceProblem = KernelProblem<DeviceContext>;
using DeviceCall = KernelCall<DeviceContext>;
using DeviceKernel = Kernel<DeviceContext>;
using DeviceCandidate = KernelCandidate<DeviceContext>;
using DeviceKernels = KernelRegistration<DeviceContext>;
using DeviceKernelCache = KernelCache<DeviceContext>;

}  // namespace longhaul
