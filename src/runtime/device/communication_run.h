// A CommunicationStep carried out by a device with its messages staged in host memory: packed and unpacked by one table
// of copies, sent by the rank's communicator. Sums are the communicator's, in rank order: the same bits as of ranks on
// the host.
#pragma once
#include <span>
#include <vector>

#include "runtime/communication.h"
#include "runtime/device/tables.h"

namespace longhaul {

/// Of the device's memory: the messages, where operands or results do not lie as they travel. A multiple of 64.
std::int64_t device_scratch_bytes(const CommunicationStep& step);
/// Of pinned host memory: what is sent, what is received, and what a reduction needs.
std::size_t host_staging_bytes(const CommunicationStep& step);

/// The copies of a slice, which sends nothing.
void add_slice(std::vector<cuda::CopyEntry>& table, const CommunicationStep& step,
               std::span<const void* const> operands, std::span<void* const> results);

/// One step at its place in memory; `step` must outlive it.
class DeviceCommunication {
 public:
  /// `scratch` has device_scratch_bytes. `group` may be null for a slice.
  DeviceCommunication(const CommunicationStep& step, Communicator* group, std::span<const void* const> operands,
                      std::span<void* const> results, void* scratch, TableSpace& tables);
  /// Packs, waits for the device, sends, receives and unpacks; `staging` has host_staging_bytes. With `times` as
  /// run_communication of the CPU.
  void run(DeviceContext& context, void* staging, CommunicationTimes* times) const;

 private:
  void exchange(const void* send, void* receive, void* reduction) const;

  const CommunicationStep& step_;
  Communicator* group_;
  CopyTable pack_, unpack_;
  const void* send_ = nullptr;
  void* receive_ = nullptr;
};

}  // namespace longhaul
