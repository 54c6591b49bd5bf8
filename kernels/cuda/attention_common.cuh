// What the attention kernels share: the problem, the mask and the walk over its tiles, tiles in shared memory, matrix
// fragments, output.
//
// Letters: b batch, s queries, t keys, h query heads, g key/value heads, d head dimension. Query head h reads kv head
// h / (heads / kv_heads). Every tensor has d contiguous and its other strides stated, in elements, multiples of 8.
#pragma once
#include "kernels/cuda/gpu.h"

namespace longhaul::cuda {

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kInfinity = __builtin_huge_valf();
constexpr int kFar = 0x7fffffff;  // an index that no query sees
constexpr int kGranule = 64;      // rows that share one entry of the mask's bounds

struct Strides {
  long long batch, row, head;
};
struct HeadTensor {  // bf16, read only
  const gpu::bfloat16* data;
  Strides strides;
  GPU_DEVICE const gpu::bfloat16* row(int b, int r, int head) const {
    return data + b * strides.batch + r * strides.row + head * strides.head;
  }
};
/// bf16 or fp32; fp32 may be added to what is there.
struct HeadOutput {
  void* data;
  Strides strides;
  bool float32, accumulate;
  GPU_DEVICE long long offset(int b, int r, int head) const {
    return b * strides.batch + r * strides.row + head * strides.head;
  }
};
struct AttentionSizes {
  int heads, group;  // group = query heads a kv head
  int queries, keys;
  float scale;
  int parts = 1, part_heads = 1;  // of a group, each with blocks of its own, and the query heads of each: backward
};
/// Query q sees key k when ranges[q].x <= key_index[k] <= ranges[q].y. Bounds are per granule of 64 rows.
struct MaskView {
  const int2* ranges;        // [b][s]: {first visible index, own index}
  const int* key_index;      // [b][t]
  const int4* query_bounds;  // [b][query_granules]: {least first, greatest first, least own, greatest own}
  const int2* key_bounds;    // [b][key_granules]: {least, greatest} index; padding counts as kFar
  int query_granules, key_granules;
};

constexpr int kBackwardPadding = 128;  // the backward's statistics are padded to this many queries
struct BackwardStatistics {            // [b][h][padded]
  float *log2_sum_exp, *delta;
  int padded;
};

// ---- the mask, element by element
GPU_DEVICE int2 visible_range(const MaskView& mask, const AttentionSizes& sizes, int b, int q) {
  if (q >= sizes.queries) return int2{kFar, -kFar};
  return gpu::global_load(mask.ranges + static_cast<long long>(b) * sizes.queries + q);
}
GPU_DEVICE int index_of_key(const MaskView& mask, const AttentionSizes& sizes, int b, int k) {
  return k < sizes.keys ? gpu::global_load(mask.key_index + static_cast<long long>(b) * sizes.keys + k) : kFar;
}

// ---- the mask, tile by tile. Tiles are 64 or 128 queries; 32, 64 or 128 keys.
template <int ROWS>
GPU_DEVICE int4 query_tile_bounds(const MaskView& mask, int b, int tile) {
  static_assert(ROWS == 64 || ROWS == 128);
  const int4* bounds = mask.query_bounds + static_cast<long long>(b) * mask.query_granules;
  if (ROWS == 64) return gpu::global_load(bounds + tile);
  int4 low = gpu::global_load(bounds + 2 * tile);
  if (2 * tile + 1 < mask.query_granules) {
    int4 high = gpu::global_load(bounds + 2 * tile + 1);
    low = int4{gpu::minimum(low.x, high.x), gpu::maximum(low.y, high.y), gpu::minimum(low.z, high.z),
               gpu::maximum(low.w, high.w)};
  }
  return low;
}
template <int ROWS>
GPU_DEVICE int2 key_tile_bounds(const MaskView& mask, int b, int tile) {
  static_assert(ROWS == 32 || ROWS == 64 || ROWS == 128);
  const int2* bounds = mask.key_bounds + static_cast<long long>(b) * mask.key_granules;
  if (ROWS <= 64) return gpu::global_load(bounds + tile * ROWS / 64);
  int2 low = gpu::global_load(bounds + 2 * tile);
  if (2 * tile + 1 >= mask.key_granules) return int2{low.x, kFar};
  int2 high = gpu::global_load(bounds + 2 * tile + 1);
  return int2{gpu::minimum(low.x, high.x), gpu::maximum(low.y, high.y)};
}
enum Cover { kNone, kPart, kFull };
GPU_DEVICE Cover cover(int4 query, int2 key) {
  if (key.x > query.w || key.y < query.x) return kNone;
  return key.x >= query.y && key.y <= query.z ? kFull : kPart;
}

/// Walks the tiles that are not wholly masked, 32 at a time; every warp of a block walks the same way.
template <typename Test>
struct TileWalk {
  Test test;  // tile -> Cover
  int count, base;
  std::uint32_t live, full;

  /// The next tile, or -1; `whole` says that all of it is visible.
  GPU_DEVICE int next(bool& whole) {
    while (!live) {
      base += 32;
      if (base >= count) return -1;
      const int tile = base + (gpu::thread_index() & 31);
      const Cover c = tile < count ? test(tile) : kNone;
      live = gpu::ballot(c != kNone);
      full = gpu::ballot(c == kFull);
    }
    const int bit = gpu::first_bit(live);
    live &= live - 1;
    whole = full >> bit & 1;
    return base + bit;
  }
};
template <typename Test>
GPU_DEVICE TileWalk<Test> walk_tiles(Test test, int count) {
  return {test, count, -32, 0, 0};
}

// ---- a tile of rows x D bf16 in shared memory, aligned to a row: 16-byte chunk c of row r lies at chunk c ^ (r & 7),
// so that eight rows of a column meet eight different banks. Written so that a constant c costs one xor.
template <int D>
GPU_DEVICE std::uint32_t chunk_address(std::uint32_t tile, int row, int c) {
  return (tile + row * (D * 2) + ((row & 7) << 4)) ^ (c << 4);
}
/// Starts the copies of a tile; rows from `valid` on become zeros.
template <int D, int ROWS, int THREADS>
GPU_DEVICE void load_tile(std::uint32_t tile, const gpu::bfloat16* source, long long row_stride, int valid) {
  constexpr int kChunks = D / 8;
  static_assert(ROWS * kChunks % THREADS == 0);
#pragma unroll
  for (int i = 0; i < ROWS * kChunks / THREADS; i++) {
    const int n = i * THREADS + gpu::thread_index(), r = n / kChunks, c = n % kChunks;
    gpu::copy_async_16(chunk_address<D>(tile, r, c), source + (r < valid ? r * row_stride : 0) + c * 8, r < valid);
  }
}
/// The 16 x 16 A fragment at row `row`, columns 16 k.
template <int D>
GPU_DEVICE void load_a(std::uint32_t (&r)[4], std::uint32_t tile, int row, int k) {
  const int lane = gpu::thread_index() & 31;
  gpu::ldmatrix_x4(r, chunk_address<D>(tile, row + (lane & 15), lane >> 4) ^ (k << 5));
}
/// Two B fragments, n = tile rows row..row + 15, k = columns 16 k: r[0], r[1] for the first eight rows, r[2], r[3] for
/// the rest.
template <int D>
GPU_DEVICE void load_b(std::uint32_t (&r)[4], std::uint32_t tile, int row, int k) {
  const int lane = gpu::thread_index() & 31;
  gpu::ldmatrix_x4(r, chunk_address<D>(tile, row + (lane & 7) + (lane >> 4) * 8, lane >> 3 & 1) ^ (k << 5));
}
/// Two B fragments of the transposed tile: k = tile rows row..row + 15, n = columns 16 n..16 n + 15.
template <int D>
GPU_DEVICE void load_b_transposed(std::uint32_t (&r)[4], std::uint32_t tile, int row, int n) {
  const int lane = gpu::thread_index() & 31;
  gpu::ldmatrix_x4_transposed(r, chunk_address<D>(tile, row + (lane & 15), lane >> 4) ^ (n << 5));
}
/// The accumulators of two neighbouring 16 x 8 products are one A fragment once rounded.
GPU_DEVICE void round_to_a(std::uint32_t (&r)[4], const float (&low)[4], const float (&high)[4]) {
  r[0] = gpu::pack_bfloat16(low[0], low[1]);
  r[1] = gpu::pack_bfloat16(low[2], low[3]);
  r[2] = gpu::pack_bfloat16(high[0], high[1]);
  r[3] = gpu::pack_bfloat16(high[2], high[3]);
}

// ---- output of a warp's 16 rows x D accumulator (mma layout); rows from `valid` on are not stored
template <int D>
GPU_DEVICE void store_float_rows(float* target, long long row_stride, int valid, bool accumulate, const float* acc) {
  const int lane = gpu::thread_index() & 31;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int r = lane / 4 + half * 8;
    if (r >= valid) continue;
#pragma unroll
    for (int j = 0; j < D / 8; j++) {
      float2* p = reinterpret_cast<float2*>(target + r * row_stride + j * 8 + 2 * (lane & 3));
      float2 value = {acc[j * 4 + 2 * half], acc[j * 4 + 2 * half + 1]};
      if (accumulate) {
        const float2 old = gpu::global_load_mutable(p);
        value.x += old.x, value.y += old.y;
      }
      gpu::global_store(p, value);
    }
  }
}
/// Through the warp's own 16 rows, from `row` on, of a tile in shared memory, so that global stores are 16 bytes.
template <int D>
GPU_DEVICE void store_bfloat16_rows(gpu::bfloat16* target, long long row_stride, int valid, const float* acc,
                                    std::uint32_t tile, int row) {
  const int lane = gpu::thread_index() & 31;
#pragma unroll
  for (int j = 0; j < D / 8; j++)
#pragma unroll
    for (int half = 0; half < 2; half++)
      gpu::shared_store<std::uint32_t>(chunk_address<D>(tile, row + lane / 4 + half * 8, j) + 4 * (lane & 3),
                                       gpu::pack_bfloat16(acc[j * 4 + 2 * half], acc[j * 4 + 2 * half + 1]));
  gpu::warp_sync();
#pragma unroll
  for (int i = 0; i < D / 16; i++) {
    const int n = i * 32 + lane, r = n / (D / 8), c = n % (D / 8);
    if (r < valid)
      gpu::global_store(reinterpret_cast<uint4*>(target + r * row_stride + c * 8),
                        gpu::shared_load<uint4>(chunk_address<D>(tile, row + r, c)));
  }
}
/// Rows r, r + 1, ... of (b, head) from a warp's accumulator, `scratch_row` being the warp's rows of the scratch tile.
template <int D>
GPU_DEVICE void store_rows(const HeadOutput& out, int b, int r, int head, int valid, const float* acc,
                           std::uint32_t scratch, int scratch_row) {
  const long long at = out.offset(b, r, head);
  if (out.float32)
    store_float_rows<D>(static_cast<float*>(out.data) + at, out.strides.row, valid, out.accumulate, acc);
  else
    store_bfloat16_rows<D>(static_cast<gpu::bfloat16*>(out.data) + at, out.strides.row, valid, acc, scratch,
                           scratch_row);
}

}  // namespace longhaul::cuda
