#include "runtime/device/tables.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace longhaul {

std::size_t TableSpace::add(const void* data, std::size_t bytes) {
  LONGHAUL_CHECK(!memory_, "a table after the tables were uploaded");
  const std::size_t offset = bytes_;
  bytes_ = (bytes_ + bytes + 255) / 256 * 256;
  host_.resize(bytes_);
  if (data && bytes > 0) std::memcpy(host_.data() + offset, data, bytes);
  return offset;
}

void TableSpace::upload(DeviceContext& context) {
  memory_ = std::make_unique<DeviceMemory>(context.device(), DeviceMemory::Place::device, bytes_);
  if (bytes_ > 0) context.succeed(context.api().copy(memory_->data(), host_.data(), bytes_, context.stream()));
}

void CopyTable::keep_in(TableSpace& space) {
  std::erase_if(entries, [](const cuda::CopyEntry& one) { return one.extent[0] * one.extent[1] * one.run_bytes == 0; });
  constexpr std::size_t most = 65535;  // of one launch
  if (entries.empty() || entries.size() > most) return;
  for (const cuda::CopyEntry& one : entries) {
    LONGHAUL_CHECK(one.run_bytes % 2 == 0 && reinterpret_cast<std::uintptr_t>(one.to) % 2 == 0,
                   "a copy of an odd number of bytes");
    largest_ = std::max(largest_, one.extent[0] * one.extent[1] * one.run_bytes);
  }
  space_ = &space;
  offset_ = space.add(entries.data(), entries.size() * sizeof entries[0]);
}

void CopyTable::run(DeviceContext& context) const {
  if (entries.empty()) return;
  const auto count = static_cast<std::int32_t>(entries.size());
  const cuda::Api& api = context.api();
  if (space_)
    context.succeed(api.copy_entries(reinterpret_cast<const cuda::CopyEntry*>(space_->at(offset_)), count, largest_,
                                     context.stream()));
  else
    context.succeed(api.copy_table(entries.data(), count, context.stream()));
}

}  // namespace longhaul
