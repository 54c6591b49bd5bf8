#include "runtime/device/communication_run.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"

namespace longhaul {
namespace {

std::int64_t aligned(std::int64_t bytes) {
  return (bytes + 63) / 64 * 64;
}

// Block `i` of a tensor to or from a place of its own; what of it lies beyond the tensor is zeros there.
void add_block(std::vector<cuda::CopyEntry>& table, const BlockLayout& layout, const char* tensor, std::int64_t i,
               const char* block, bool packs) {
  const std::int64_t begin = std::min(i * layout.step, layout.size), rows = std::min(layout.step, layout.size - begin);
  const std::int64_t run = rows * layout.inner, whole = layout.step * layout.inner, row = layout.size * layout.inner;
  const char* const piece = tensor + begin * layout.inner;
  if (!packs) {
    table.push_back({block, const_cast<char*>(piece), {1, layout.outer}, run, {0, whole}, {0, row}});
    return;
  }
  table.push_back({piece, const_cast<char*>(block), {1, layout.outer}, run, {0, row}, {0, whole}});
  if (run < whole)
    table.push_back({nullptr, const_cast<char*>(block) + run, {1, layout.outer}, whole - run, {0, 0}, {0, whole}});
}

}  // namespace

std::int64_t device_scratch_bytes(const CommunicationStep& step, const DataPlaneChoice& choice) {
  if (step.is_local()) return 0;
  return (step.packs ? aligned(sent_bytes(step)) : 0) + (step.unpacks ? aligned(received_bytes(step)) : 0) +
         plane_scratch_bytes(step, choice);
}

void add_slice(std::vector<cuda::CopyEntry>& table, const CommunicationStep& step,
               std::span<const void* const> operands, std::span<void* const> results) {
  for (std::size_t p = 0; p < step.parts.size(); ++p)
    add_block(table, step.parts[p].pack, static_cast<const char*>(operands[p]), step.index,
              static_cast<const char*>(results[p]), true);
}

DeviceCommunication::DeviceCommunication(const CommunicationStep& step, DataPlane* plane, CollectiveWatch* watch,
                                         std::string name, std::span<const void* const> operands,
                                         std::span<void* const> results, void* scratch, TableSpace& tables)
    : step_(step), plane_(plane), watch_(watch), name_(std::move(name)) {
  const auto tensor = [](const void* pointer) { return static_cast<const char*>(pointer); };
  if (step.is_local()) {
    add_slice(pack_.entries, step, operands, results);
    pack_.keep_in(tables);
    return;
  }
  LONGHAUL_CHECK(plane && plane->group().size() == step.ranks && plane->group().rank() == step.index,
                 "a collective on the wrong group");
  char* const sending = static_cast<char*>(scratch);
  char* const receiving = sending + (step.packs ? aligned(sent_bytes(step)) : 0);
  send_ = step.packs ? sending : operands[0];
  receive_ = step.unpacks ? receiving : results[0];
  scratch_ = receiving + (step.unpacks ? aligned(received_bytes(step)) : 0);
  for (std::size_t p = 0; p < step.parts.size(); ++p) {
    const CommunicationStep::Part& part = step.parts[p];
    for (std::int64_t i = 0; step.packs && i < step.send_blocks; ++i)
      add_block(pack_.entries, part.pack, tensor(operands[p]), i, sending + i * step.block_bytes + part.offset, true);
    for (std::int64_t i = 0; step.unpacks && i < step.receive_blocks; ++i)
      add_block(unpack_.entries, part.unpack, tensor(results[p]), i, receiving + i * step.block_bytes + part.offset,
                false);
  }
  pack_.keep_in(tables);
  unpack_.keep_in(tables);
}

void DeviceCommunication::run(DeviceContext& context, void* staging, const Activity::Place& place,
                              CommunicationTimes* times) const {
  using Clock = std::chrono::steady_clock;
  auto at = times ? Clock::now() : Clock::time_point();
  const auto add_to = [&](double CommunicationTimes::*kind, bool waits) {
    if (!times) return;
    if (waits) context.device().synchronize();
    const auto now = Clock::now();
    times->*kind += std::chrono::duration<double>(now - at).count();
    at = now;
  };
  pack_.run(context);
  if (step_.is_local()) return;
  add_to(&CommunicationTimes::packing, true);
  if (times) {
    plane_->group().barrier();
    add_to(&CommunicationTimes::waiting, false);
  }
  if (watch_) watch_->begin({&name_, &place});
  plane_->move(step_, {send_, receive_, scratch_, static_cast<char*>(staging)});
  if (watch_) watch_->end();
  add_to(&CommunicationTimes::moving, true);
  unpack_.run(context);
  add_to(&CommunicationTimes::packing, true);
}

}  // namespace longhaul
