#include "runtime/device/data_plane.h"

#include "base/error.h"
#include "comm/reduction.h"
#include "runtime/device/bind.h"

namespace longhaul {
namespace {

std::int64_t aligned(std::int64_t bytes) {
  return (bytes + 63) / 64 * 64;
}
bool is_sum(const CommunicationStep& step) {
  return step.collective == Collective::reduce_scatter || step.collective == Collective::all_reduce;
}

// Why NCCL cannot be used here; empty when it can.
std::string no_nccl(const Device& device) {
  if (!device.api().nccl_version) return "its kernels were built without nccl.h";
  std::int32_t version = 0;
  return device.api().nccl_version(&version) == 0 ? "" : device.api().last_error();
}

}  // namespace

bool DataPlaneChoice::sums_by_nccl(const CommunicationStep& step) const {
  return kind == DataPlaneKind::nccl && !ordered_sums && is_sum(step) && step.dtype != DType::bfloat16;
}

DataPlaneKind choose_data_plane(DataPlaneKind wanted, const Device& device, std::string& why) {
  if (wanted == DataPlaneKind::staged) return wanted;
  if (wanted == DataPlaneKind::automatic && device.is_emulated()) {
    why = "the emulator's NCCL is one in software";
    return DataPlaneKind::staged;
  }
  if (wanted == DataPlaneKind::push) return wanted;
  const std::string reason = no_nccl(device);
  if (wanted == DataPlaneKind::automatic) {
    why = reason;
    return reason.empty() ? DataPlaneKind::nccl : DataPlaneKind::staged;
  }
  if (!reason.empty())
    fail("device.collectives is {} and that is not to be had: {}; set it to staged", name_of(wanted), reason);
  return wanted;
}

std::int64_t sent_bytes(const CommunicationStep& step) {
  return step.block_bytes * step.send_blocks;
}
std::int64_t received_bytes(const CommunicationStep& step) {
  return step.block_bytes * step.receive_blocks;
}

std::int64_t plane_scratch_bytes(const CommunicationStep& step, const DataPlaneChoice& choice) {
  if (choice.kind == DataPlaneKind::staged || step.is_local() || !is_sum(step) || choice.sums_by_nccl(step)) return 0;
  // What every other rank adds to the own part.
  const std::size_t element = size_of(step.dtype), count = static_cast<std::size_t>(step.block_bytes) / element;
  const std::size_t own = step.collective == Collective::all_reduce ? reduction_chunk(step.ranks, count) : count;
  return (step.ranks - 1) * aligned(static_cast<std::int64_t>(own * element));
}

std::size_t plane_staging_bytes(const CommunicationStep& step, const DataPlaneChoice& choice) {
  if (choice.kind != DataPlaneKind::staged || step.is_local()) return 0;
  return static_cast<std::size_t>(aligned(sent_bytes(step)) + aligned(received_bytes(step)) + step.reduction_bytes);
}

void DataPlane::count(const CommunicationStep& step) {
  traffic_[step.collective].calls += 1;
  traffic_[step.collective].bytes_sent += step.bytes_sent();
}

void DataPlane::add(const Traffic& more) {
  for (std::size_t k = 0; k < traffic_.rows.size(); ++k) {
    traffic_.rows[k].calls += more.rows[k].calls;
    traffic_.rows[k].bytes_sent += more.rows[k].bytes_sent;
  }
}

void StagedPlane::move(const CommunicationStep& step, const DeviceMessage& message) {
  char* const send = message.staging;
  char* const receive = send + aligned(sent_bytes(step));
  char* const reduction = receive + aligned(received_bytes(step));
  bind::copy(context_, send, message.send, sent_bytes(step));
  context_.device().synchronize();
  const auto block = static_cast<std::size_t>(step.block_bytes), elements = block / size_of(step.dtype);
  switch (step.collective) {
    case Collective::all_gather:
      group().all_gather(send, receive, block);
      break;
    case Collective::reduce_scatter:
      group().reduce_scatter(send, receive, elements, step.dtype, reduction);
      break;
    case Collective::all_reduce:
      group().all_reduce(send, receive, elements, step.dtype, reduction);
      break;
    case Collective::all_to_all:
      group().all_to_all(send, receive, block);
      break;
    case Collective::send_receive:
      group().send_receive(send, block, step.to, receive, block, step.from);
      break;
    default:
      LONGHAUL_CHECK(false, "no such collective step");
  }
  count(step);
  bind::copy(context_, message.receive, receive, received_bytes(step));
}

}  // namespace longhaul
