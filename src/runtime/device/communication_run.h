// A CommunicationStep carried out by a device: packed and unpacked by one table of copies, moved by the data plane of
// its group. Sums are in rank order: the same bits as of ranks on the host.
#pragma once
#include <span>
#include <vector>

#include "runtime/communication.h"
#include "runtime/device/collective_watch.h"
#include "runtime/device/data_plane.h"
#include "runtime/device/tables.h"

namespace longhaul {

/// Of the device's memory: the messages, where operands or results do not lie as they travel, and what the data plane
/// needs to move them. A multiple of 64.
std::int64_t device_scratch_bytes(const CommunicationStep& step, const DataPlaneChoice& choice);

/// The copies of a slice, which sends nothing.
void add_slice(std::vector<cuda::CopyEntry>& table, const CommunicationStep& step,
               std::span<const void* const> operands, std::span<void* const> results);

/// One step at its place in memory; `step` must outlive it.
class DeviceCommunication {
 public:
  /// `scratch` has device_scratch_bytes. `plane` may be null for a slice, `watch` where no device waits for another;
  /// `name` stands for the step in errors.
  DeviceCommunication(const CommunicationStep& step, DataPlane* plane, CollectiveWatch* watch, std::string name,
                      std::span<const void* const> operands, std::span<void* const> results, void* scratch,
                      TableSpace& tables);
  /// Packs, moves and unpacks; `staging` has what the data plane asks for. With `times` as run_communication of the
  /// CPU.
  /// `place` is where the step stands in its program, for the watch; it must live until the device is done.
  void run(DeviceContext& context, void* staging, const Activity::Place& place, CommunicationTimes* times) const;

 private:
  const CommunicationStep& step_;
  DataPlane* plane_;
  CollectiveWatch* watch_;
  const std::string name_;
  CopyTable pack_, unpack_;
  const void* send_ = nullptr;
  void* receive_ = nullptr;
  void* scratch_ = nullptr;  // of the data plane
};

}  // namespace longhaul
