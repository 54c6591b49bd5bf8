// Tables that kernels read from device memory: made on the host while programs are prepared, uploaded once.
#pragma once
#include <cstddef>
#include <memory>
#include <vector>

#include "runtime/device/kernel.h"

namespace longhaul {

/// Device memory for tables and for what their kernels write between launches.
class TableSpace {
 public:
  /// Keeps `bytes` bytes for upload(); `data` null: room that nobody fills. Returns where they will lie, a multiple of
  /// 256. Before upload() only.
  std::size_t add(const void* data, std::size_t bytes);
  /// Allocates and fills, in the device's order; the host's copy goes once the device has been waited for (settle).
  void upload(DeviceContext& context);
  void settle() { host_ = {}; }
  char* at(std::size_t offset) const { return memory_->data() + offset; }
  std::size_t bytes() const { return bytes_; }

 private:
  std::vector<char> host_;
  std::size_t bytes_ = 0;
  std::unique_ptr<DeviceMemory> memory_;
};

/// Copies that one launch makes.
struct CopyTable {
  std::vector<cuda::CopyEntry> entries;
  /// Puts the entries there; without it they travel with every launch, as many as those hold.
  void keep_in(TableSpace& space);
  void run(DeviceContext& context) const;

 private:
  const TableSpace* space_ = nullptr;
  std::size_t offset_ = 0;
  std::int64_t largest_ = 0;
};

}  // namespace longhaul
