// Targets on the GPU emulator.
#pragma once
#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <utility>

#include "runtime/device/target.h"

namespace longhaul::testing {

/// The emulator of this process configured otherwise while this lives.
class EmulatorSetting {
 public:
  EmulatorSetting(const char* key, const std::string& value, std::string afterwards)
      : key_(key), afterwards_(std::move(afterwards)) {
    REQUIRE(cuda::require_backend(cuda::Backend::emulator).configure(key, value.c_str()) == 0);
  }
  ~EmulatorSetting() { cuda::require_backend(cuda::Backend::emulator).configure(key_, afterwards_.c_str()); }
  EmulatorSetting(const EmulatorSetting&) = delete;

 private:
  const char* const key_;
  const std::string afterwards_;
};
/// Lanes go in waves of 64.
struct WavesOf64 : EmulatorSetting {
  WavesOf64() : EmulatorSetting("wave", "64", "32") {}
};
/// What befalls NCCL ("silent 1 12").
struct NcclFault : EmulatorSetting {
  explicit NcclFault(const std::string& what) : EmulatorSetting("nccl_fault", what, "") {}
};
/// What the emulator's library of products prefers ("ORDER=1").
struct ProductOrder : EmulatorSetting {
  explicit ProductOrder(const char* order) : EmulatorSetting("matmul", order, "ORDER=0") {}
};

inline std::unique_ptr<Target> emulated(int threads) {
  return std::make_unique<DeviceTarget>(TargetOptions{.threads = threads}, cuda::Backend::emulator);
}
/// Every op is held against the CPU's reference kernel.
inline std::unique_ptr<Target> checked(int threads) {
  return std::make_unique<DeviceTarget>(TargetOptions{.threads = threads, .check_ops = true}, cuda::Backend::emulator);
}
/// The last candidate of every op.
inline std::unique_ptr<Target> generic(int threads) {
  return std::make_unique<DeviceTarget>(TargetOptions{.threads = threads, .reference_only = true},
                                        cuda::Backend::emulator);
}
/// Messages by NCCL, the emulated one; sums in rank order or as NCCL adds them, and what a lost collective may take.
inline std::unique_ptr<Target> by_nccl(int threads) {
  return std::make_unique<DeviceTarget>(TargetOptions{.threads = threads, .collectives = DataPlaneKind::nccl},
                                        cuda::Backend::emulator);
}
/// Written by devices into each other's memory.
inline std::unique_ptr<Target> by_push(int threads) {
  return std::make_unique<DeviceTarget>(TargetOptions{.threads = threads, .collectives = DataPlaneKind::push},
                                        cuda::Backend::emulator);
}
/// Programs launched as wholes, for one rank or by these messages.
template <DataPlaneKind kind = DataPlaneKind::automatic>
std::unique_ptr<Target> in_graphs(int threads) {
  return std::make_unique<DeviceTarget>(
      TargetOptions{.threads = threads, .collectives = kind, .collective_timeout = 0.5, .graphs = true},
      cuda::Backend::emulator);
}
inline std::unique_ptr<Target> summed_by_nccl(int threads) {
  return std::make_unique<DeviceTarget>(
      TargetOptions{.threads = threads, .collectives = DataPlaneKind::nccl, .ordered_sums = false},
      cuda::Backend::emulator);
}
inline std::unique_ptr<Target> impatient(int threads) {
  return std::make_unique<DeviceTarget>(
      TargetOptions{.threads = threads, .collectives = DataPlaneKind::nccl, .collective_timeout = 0.5},
      cuda::Backend::emulator);
}

}  // namespace longhaul::testing
