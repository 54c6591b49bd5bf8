// Tables of tensors in device memory: one launch works through all of them. A row says which blocks of the launch are
// its tensor's: from `first_block` on, to that of the next row.
#pragma once
#include "kernels/cuda/generic.cuh"

namespace longhaul::cuda {

constexpr std::uint32_t kTableShared = 16;  // bytes of shared memory that finding a row takes

/// A row, copied from device memory 8 bytes at a time.
template <typename Row>
GPU_DEVICE Row load_row(const Row* from) {
  static_assert(sizeof(Row) % sizeof(uint2) == 0);
  union {
    uint2 words[sizeof(Row) / sizeof(uint2)];
    Row row;
  } copy;
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(Row) / sizeof(uint2)); i++)
    copy.words[i] = gpu::global_load(reinterpret_cast<const uint2*>(from) + i);
  return copy.row;
}

/// The number of the row whose blocks this one is among. All threads of the block call it; `shared` has kTableShared
/// bytes.
template <typename Row>
GPU_DEVICE int row_of_block(const Row* rows, int count, std::uint32_t shared) {
  if (gpu::thread_index() == 0) {
    int low = 0, high = count;  // first_block of low is at most this block's number, that of high is more
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      const std::int64_t first = gpu::global_load(&rows[middle].first_block);
      (GPU_FAULT(table_boundary) ? first < gpu::block_x() : first <= gpu::block_x()) ? low = middle : high = middle;
    }
    gpu::shared_store(shared, static_cast<std::uint32_t>(low));
  }
  gpu::block_sync();
  return static_cast<int>(gpu::shared_load<std::uint32_t>(shared));
}

/// On the host: sets first_block of every row, `blocks_of` blocks each, and returns how many there are in all.
template <typename Row, typename Blocks>
std::int64_t number_blocks(Row* rows, std::int32_t count, Blocks blocks_of) {
  std::int64_t next = 0;
  for (std::int32_t i = 0; i < count; i++) {
    rows[i].first_block = next;
    next += blocks_of(rows[i]);
  }
  return next;
}

}  // namespace longhaul::cuda
