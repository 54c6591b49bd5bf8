// How the messages of one group of ranks travel between their devices.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/choices.h"
#include "comm/communicator.h"
#include "runtime/communication.h"
#include "runtime/device/kernel.h"

namespace longhaul {

/// Settled when a target is made, the same on all ranks: plans depend on it.
struct DataPlaneChoice {
  DataPlaneKind kind = DataPlaneKind::staged;  ///< never automatic
  bool ordered_sums = true;                    ///< false: NCCL may sum float32 and float64 in its own order
  /// Whether NCCL sums in this step.
  bool sums_by_nccl(const CommunicationStep& step) const;
};
/// What `wanted` means with these kernels; `why`, for the log, says of automatic why it is what it is. Throws Error
/// when these kernels cannot do what is wanted.
DataPlaneKind choose_data_plane(DataPlaneKind wanted, const Device& device, std::string& why);

/// Bytes that lie in what a step sends and receives.
std::int64_t sent_bytes(const CommunicationStep& step);
std::int64_t received_bytes(const CommunicationStep& step);
/// Of device memory, besides what is sent and received; a multiple of 64.
std::int64_t plane_scratch_bytes(const CommunicationStep& step, const DataPlaneChoice& choice);
/// Of pinned host memory.
std::size_t plane_staging_bytes(const CommunicationStep& step, const DataPlaneChoice& choice);

/// Where the bytes of one step lie: as the communicator's call of its kind has them.
struct DeviceMessage {
  const void* send;
  void* receive;
  void* scratch;  ///< plane_scratch_bytes
  char* staging;  ///< plane_staging_bytes
};

class DataPlane {
 public:
  explicit DataPlane(Communicator& group) : group_(group) {}
  virtual ~DataPlane() = default;
  DataPlane(const DataPlane&) = delete;

  /// The same ranks, for what the host says.
  Communicator& group() const { return group_; }
  /// Moves the step's bytes in the device's order; all ranks of the group call it for the same steps in the same order.
  virtual void move(const CommunicationStep& step, const DeviceMessage& message) = 0;
  /// What this rank has sent, as a communicator counts.
  const Traffic& traffic() const { return traffic_; }
  void reset_traffic() { traffic_ = {}; }
  /// What a graph has sent, of a move() that it keeps.
  void add(const Traffic& more);

 protected:
  void count(const CommunicationStep& step);

 private:
  Communicator& group_;
  Traffic traffic_;
};

/// Through pinned host memory and the group's communicator: the host waits for the device, the device for the host.
class StagedPlane final : public DataPlane {
 public:
  StagedPlane(DeviceContext& context, Communicator& group) : DataPlane(group), context_(context) {}
  void move(const CommunicationStep& step, const DeviceMessage& message) override;

 private:
  DeviceContext& context_;
};

}  // namespace longhaul
