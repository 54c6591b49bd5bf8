// Copies by a table: one launch packs or unpacks all that travels in a message.
#include "kernels/cuda/launch.h"
#include "kernels/cuda/table.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kEntries = 32;  // of one launch: parameters are at most 4 KiB

struct Entry {
  CopyEntry copy;
  std::int32_t unit;  // bytes that a thread moves: what divides addresses, strides and runs
};
struct TableParameters {
  Entry entry[kEntries];
};
static_assert(sizeof(TableParameters) <= 4096);

template <typename Unit>
GPU_DEVICE void move(const CopyEntry& p) {
  constexpr std::int64_t bytes = sizeof(Unit);
  const std::int64_t run = p.run_bytes / bytes;
  const std::int64_t stride = static_cast<std::int64_t>(gpu::grid_x()) * gpu::block_threads();
  for (std::int64_t i = static_cast<std::int64_t>(gpu::block_x()) * gpu::block_threads() + gpu::thread_index();
       i < p.extent[0] * p.extent[1] * run; i += stride) {
    const std::int64_t unit = i % run, inner = i / run % p.extent[1], outer = i / run / p.extent[1];
    char* const to = static_cast<char*>(p.to) + outer * p.to_stride[0] + inner * p.to_stride[1] + unit * bytes;
    const char* const from =
        static_cast<const char*>(p.from) + outer * p.from_stride[0] + inner * p.from_stride[1] + unit * bytes;
    gpu::global_store(reinterpret_cast<Unit*>(to),
                      p.from ? gpu::global_load_mutable(reinterpret_cast<const Unit*>(from)) : Unit{});
  }
}

GPU_DEVICE void move(const CopyEntry& copy, int unit) {
  switch (unit) {
    case 16:
      return move<uint4>(copy);
    case 8:
      return move<uint2>(copy);
    case 4:
      return move<std::uint32_t>(copy);
    default:
      return move<std::uint16_t>(copy);
  }
}

// What divides addresses, strides and runs, at most 16.
GPU_HOST_DEVICE int unit_of(const CopyEntry& copy) {
  std::uint64_t all = reinterpret_cast<std::uintptr_t>(copy.to) | static_cast<std::uint64_t>(copy.run_bytes) | 16;
  if (copy.from) all |= reinterpret_cast<std::uintptr_t>(copy.from);
  for (int d = 0; d < 2; d++)
    if (copy.extent[d] > 1)
      all |= static_cast<std::uint64_t>(copy.to_stride[d]) |
             (copy.from ? static_cast<std::uint64_t>(copy.from_stride[d]) : 0);
  return static_cast<int>(all & (~all + 1));
}

GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) copy_table_kernel(GPU_PARAMETER TableParameters p) {
  const Entry& entry = p.entry[gpu::block_y()];
  move(entry.copy, entry.unit);
}

struct EntryParameters {
  const CopyEntry* entry;
};
GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) copy_entries_kernel(GPU_PARAMETER EntryParameters p) {
  const CopyEntry copy = load_row(p.entry + gpu::block_y());
  move(copy, unit_of(copy));
}

}  // namespace

void copy_table(const CopyEntry* entries, std::int32_t count, Stream stream) {
  TableParameters p{};
  int held = 0;
  std::int64_t most = 0;
  const auto launch = [&] {
    if (held)
      gpu::launch(copy_table_kernel, dim3(elementwise_blocks(most), static_cast<unsigned>(held)), kElementwiseThreads,
                  0, p, native(stream));
    held = 0, most = 0;
  };
  for (std::int32_t i = 0; i < count; i++) {
    const CopyEntry& copy = entries[i];
    require(copy.extent[0] >= 0 && copy.extent[1] >= 0 && copy.run_bytes >= 0, "copy_table: an extent is negative");
    const std::int64_t bytes = copy.extent[0] * copy.extent[1] * copy.run_bytes;
    if (bytes == 0) continue;
    const std::int32_t unit = unit_of(copy);
    require(unit >= 2, "copy_table: runs of an odd number of bytes");
    p.entry[held++] = {copy, unit};
    most = bytes / unit > most ? bytes / unit : most;
    if (held == kEntries) launch();
  }
  launch();
}

void copy_entries(const CopyEntry* entries, std::int32_t count, std::int64_t largest_bytes, Stream stream) {
  require(count >= 0 && count <= 65535, "copy_entries: a launch has at most 65535 entries");
  if (count == 0 || largest_bytes == 0) return;
  // Many entries fill the device by themselves.
  const unsigned wanted = elementwise_blocks(divide_up(largest_bytes, std::int64_t{16}));
  const auto share = static_cast<unsigned>(divide_up(8192, count));
  gpu::launch(copy_entries_kernel, dim3(wanted < share ? wanted : share, static_cast<unsigned>(count)),
              kElementwiseThreads, 0, EntryParameters{entries}, native(stream));
}

}  // namespace longhaul::cuda
