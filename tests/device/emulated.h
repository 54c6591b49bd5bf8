// Targets on the GPU emulator.
#pragma once
#include <memory>

#include "runtime/device/target.h"

namespace longhaul::testing {

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
