// Messages by NCCL, in the device's stream: nothing waits on the host. Sums are messages to the rank that owns a part,
// added there in rank order, so that they have the bits of every other transport; where the choice allows it NCCL sums.
#pragma once
#include <atomic>
#include <string>
#include <vector>

#include "runtime/device/collective_watch.h"
#include "runtime/device/data_plane.h"

namespace longhaul {

class NcclPlane final : public DataPlane, private PeerWait {
 public:
  /// Collective over the group, which finds NCCL's id by its communicator; all ranks make their groups in one order.
  /// Returns when the communicator is whole and every connection has been used once. `name` of the ranks, for errors.
  /// Throws what the watch throws.
  NcclPlane(DeviceContext& context, Communicator& group, CollectiveWatch& watch, const DataPlaneChoice& choice,
            std::string name);
  /// In order; at once where something has failed. Waits at most ten seconds for others.
  ~NcclPlane() override;

  void move(const CommunicationStep& step, const DeviceMessage& message) override;
  /// What the making of the communicator has left of the device's memory, besides the plan.
  std::int64_t device_bytes() const { return device_bytes_; }

 private:
  void check() override;
  void abort() noexcept override;
  /// Until NCCL has taken what it was asked for: before that nothing else may be queued.
  void settle(const std::string& what);
  void try_connections(const DeviceMemory& memory);
  void exchange(const std::vector<cuda::NcclTransfer>& transfers);
  /// Every block of `send` to its rank, every rank's into `receive`.
  void all_to_all(const char* send, char* receive, std::int64_t block);
  /// The own part of everybody's into slots of scratch, and their sum in rank order into `result`.
  void sum_own(const char* send, std::int64_t part_bytes, std::int64_t whole_bytes, DType type, char* slots,
               char* result);

  DeviceContext& context_;
  CollectiveWatch& watch_;
  const DataPlaneChoice choice_;
  const std::string name_;
  const int rank_, ranks_;
  std::int64_t device_bytes_ = 0;
  const int exceptions_;                       // under way when it was made
  std::atomic<void*> communicator_ = nullptr;  // null again once it has been ended
  std::vector<cuda::NcclTransfer> transfers_;  // of one call
};

}  // namespace longhaul
