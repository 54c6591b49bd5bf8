// Attention forward, portable: mma.sync, sm_80 and later. A block owns kQueries query rows of one head, a warp 16 * M
// of them. Keys and values pass through two shared stages: while one is used, cp.async fills the other.
#pragma once
#include "kernels/cuda/attention_common.cuh"

namespace longhaul::cuda {

template <int D_, int KEYS, int M_, int WARPS, bool QUERIES_IN_REGISTERS, int BLOCKS>
struct ForwardConfig {
  static constexpr int D = D_, kKeys = KEYS, M = M_, kBlocks = BLOCKS;
  static constexpr bool kQueriesInRegisters = QUERIES_IN_REGISTERS;
  static constexpr int kScoresAtOnce = QUERIES_IN_REGISTERS || D == 64 ? D / 16 : 2;  // steps along d, unrolled
  static constexpr int kQueries = 16 * M * WARPS, kThreads = 32 * WARPS;
  static constexpr int kQueryBytes = kQueries * D * 2, kTileBytes = kKeys * D * 2;
  static constexpr int kSharedBytes = kQueryBytes + 4 * kTileBytes;  // queries, two stages of keys and values
};
using Forward64 = ForwardConfig<64, 64, 2, 4, false, 2>;
using Forward128 = ForwardConfig<128, 64, 1, 4, true, 2>;
using Forward256 = ForwardConfig<256, 32, 1, 4, false, 1>;

struct ForwardParameters {
  HeadTensor q, k, v;
  HeadOutput out;
  float* log_sum_exp;  // [b][h][s]
  MaskView mask;
  AttentionSizes sizes;
};

/// Grid (query tiles, heads, batch).
template <typename C>
GPU_KERNEL GPU_LAUNCH_BOUNDS(C::kThreads, C::kBlocks) attention_forward(GPU_PARAMETER ForwardParameters p) {
  constexpr int D = C::D, N = C::kKeys, M = C::M;
  const int lane = gpu::thread_index() & 31, warp = gpu::thread_index() / 32;
  // Late tiles are the long ones under a causal mask: they start first.
  const int query_tiles = (p.sizes.queries + C::kQueries - 1) / C::kQueries;
  const int query_tile = query_tiles - 1 - gpu::block_x();
  const int head = gpu::block_y(), b = gpu::block_z(), kv_head = head / p.sizes.group;
  const int q0 = query_tile * C::kQueries, warp_row = warp * 16 * M;
  const std::uint32_t query_tile_at = gpu::shared_base(), stages = query_tile_at + C::kQueryBytes;
  const gpu::bfloat16* keys = p.k.row(b, 0, kv_head);
  const gpu::bfloat16* values = p.v.row(b, 0, kv_head);

  const int4 query_bounds = query_tile_bounds<C::kQueries>(p.mask, b, query_tile);
  auto tiles = walk_tiles([=](int t) { return cover(query_bounds, key_tile_bounds<N>(p.mask, b, t)); },
                          (p.sizes.keys + N - 1) / N);

  auto load_stage = [&](int tile, int stage) {
    const std::uint32_t at = stages + stage * 2 * C::kTileBytes;
    int rows = gpu::minimum(N, p.sizes.keys - tile * N);
    if (GPU_FAULT(forward_tail_rows)) rows = N;
    load_tile<D, N, C::kThreads>(at, keys + tile * N * p.k.strides.row, p.k.strides.row, rows);
    load_tile<D, N, C::kThreads>(at + C::kTileBytes, values + tile * N * p.v.strides.row, p.v.strides.row, rows);
  };
  bool whole = false, next_whole = false;
  int tile = tiles.next(whole);
  load_tile<D, C::kQueries, C::kThreads>(query_tile_at, p.q.row(b, q0, head), p.q.strides.row, p.sizes.queries - q0);
  if (tile >= 0) load_stage(tile, 0);
  gpu::copy_async_commit();

  float acc[M][D / 8][4] = {}, top[M][2], sum[M][2] = {};  // of rows lane / 4 and lane / 4 + 8
#pragma unroll
  for (int m = 0; m < M; m++) top[m][0] = top[m][1] = -kInfinity;
  std::uint32_t q[M][D / 16][4];
  const float scale = p.sizes.scale * kLog2E;  // exponentials are powers of two

  for (int stage = 0, first = 1; tile >= 0; stage ^= 1, first = 0) {
    if (!GPU_FAULT(forward_copy_wait)) gpu::copy_async_wait<0>();
    if (!GPU_FAULT(forward_barrier)) gpu::block_sync();  // this stage has landed for all; the other is no longer read
    const int next_tile = tiles.next(next_whole);
    if (next_tile >= 0) load_stage(next_tile, stage ^ 1);
    gpu::copy_async_commit();
    const std::uint32_t key_tile = stages + stage * 2 * C::kTileBytes, value_tile = key_tile + C::kTileBytes;
    if (C::kQueriesInRegisters && first)
#pragma unroll
      for (int m = 0; m < M; m++)
#pragma unroll
        for (int d = 0; d < D / 16; d++) load_a<D>(q[m][d], query_tile_at, warp_row + m * 16, d);

    float s[M][N / 8][4] = {};
#pragma unroll C::kScoresAtOnce
    for (int d = 0; d < D / 16; d++) {
      if (!C::kQueriesInRegisters)
#pragma unroll
        for (int m = 0; m < M; m++) load_a<D>(q[m][0], query_tile_at, warp_row + m * 16, d);
#pragma unroll
      for (int n = 0; n < N / 16; n++) {
        std::uint32_t k[4];
        if (GPU_FAULT(forward_row_stride))
          load_b<D / 2>(k, key_tile, n * 16, d / 2);
        else
          load_b<D>(k, key_tile, n * 16, d);
#pragma unroll
        for (int m = 0; m < M; m++) {
          gpu::mma_16x8x16(s[m][2 * n], q[m][C::kQueriesInRegisters ? d : 0], k[0], k[1]);
          gpu::mma_16x8x16(s[m][2 * n + 1], q[m][C::kQueriesInRegisters ? d : 0], k[2], k[3]);
        }
      }
    }
    if (!whole) {
      int2 range[M][2];
#pragma unroll
      for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          range[m][half] = visible_range(p.mask, p.sizes, b, q0 + warp_row + m * 16 + half * 8 + lane / 4);
          if (GPU_FAULT(forward_mask)) range[m][half].y++;
        }
#pragma unroll
      for (int n = 0; n < N / 8; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const int index = index_of_key(p.mask, p.sizes, b, tile * N + n * 8 + 2 * (lane & 3) + e);
#pragma unroll
          for (int m = 0; m < M; m++)
#pragma unroll
            for (int half = 0; half < 2; half++)
              if (index < range[m][half].x || index > range[m][half].y) s[m][n][2 * half + e] = -kInfinity;
        }
    }
    // The online softmax: scores become probabilities relative to the greatest score so far.
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float greatest = top[m][half];
#pragma unroll
        for (int n = 0; n < N / 8; n++)
          greatest = gpu::maximum(greatest, gpu::maximum(s[m][n][2 * half], s[m][n][2 * half + 1]));
        greatest = gpu::maximum(greatest, gpu::shuffle_xor(greatest, 1));
        greatest = gpu::maximum(greatest, gpu::shuffle_xor(greatest, 2));
        const float base = greatest == -kInfinity ? 0 : greatest * scale;
        const float shrink = GPU_FAULT(forward_no_rescale) ? 1 : gpu::exp2_fast(top[m][half] * scale - base);
        top[m][half] = greatest;
        float part = 0;
#pragma unroll
        for (int n = 0; n < N / 8; n++)
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; e++) part += s[m][n][e] = gpu::exp2_fast(s[m][n][e] * scale - base);
        sum[m][half] = sum[m][half] * shrink + part;
#pragma unroll
        for (int j = 0; j < D / 8; j++) acc[m][j][2 * half] *= shrink, acc[m][j][2 * half + 1] *= shrink;
      }
    }
#pragma unroll
    for (int n = 0; n < N / 16; n++) {
      std::uint32_t probabilities[M][4];
#pragma unroll
      for (int m = 0; m < M; m++) round_to_a(probabilities[m], s[m][2 * n], s[m][2 * n + 1]);
#pragma unroll
      for (int d = 0; d < D / 16; d++) {
        std::uint32_t v[4];
        load_b_transposed<D>(v, value_tile, n * 16, d);
#pragma unroll
        for (int m = 0; m < M; m++) {
          gpu::mma_16x8x16(acc[m][2 * d], probabilities[m], v[0], v[1]);
          gpu::mma_16x8x16(acc[m][2 * d + 1], probabilities[m], v[2], v[3]);
        }
      }
    }
    tile = next_tile, whole = next_whole;
  }
  gpu::copy_async_wait<0>();
  gpu::block_sync();  // the query tile is reused for output, also by warps that saw no key

#pragma unroll
  for (int m = 0; m < M; m++) {
    const int row = q0 + warp_row + m * 16, valid = p.sizes.queries - row;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float total = sum[m][half];
      total += gpu::shuffle_xor(total, 1);
      total += gpu::shuffle_xor(total, 2);
      const float inverse = total > 0 ? 1 / total : 0;
#pragma unroll
      for (int j = 0; j < D / 8; j++) acc[m][j][2 * half] *= inverse, acc[m][j][2 * half + 1] *= inverse;
      const int r = lane / 4 + half * 8;
      if ((lane & 3) == 0 && r < valid)
        gpu::global_store(
            p.log_sum_exp + (static_cast<long long>(b) * p.sizes.heads + head) * p.sizes.queries + row + r,
            total > 0 ? (top[m][half] * scale + gpu::log2_fast(total)) / kLog2E : -kInfinity);
    }
    store_rows<D>(p.out, b, row, head, valid, acc[m][0], query_tile_at, warp_row + m * 16);
  }
}

}  // namespace longhaul::cuda
