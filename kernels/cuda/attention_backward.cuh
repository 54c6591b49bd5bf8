// Attention backward, portable: mma.sync, sm_80 and later, deterministic without atomics. One kernel owns key tiles
// (dK, dV), a second owns query tiles (dQ), so scores are computed twice: seven products instead of five. Both keep
// probabilities in registers: the accumulator of one product is the A operand of the next.
//
//   P = exp(scale Q K' - LSE)   dP = dO V'   dS = P (dP - delta)   delta = rowsum(O dO)
//   dV = P' dO    dK = scale dS' Q    dQ = scale dS K              (' = transposed)
#pragma once
#include "kernels/cuda/attention_common.cuh"

namespace longhaul::cuda {

struct PrepareParameters {
  const void* out;
  Strides out_strides;
  bool out_float32;
  HeadTensor dout;
  const float* log_sum_exp;  // [b][h][s], as the forward wrote it
  const float* delta;        // [b][s][h], or null: made of out and dout
  BackwardStatistics statistics;
  AttentionSizes sizes;
};

/// log2_sum_exp = LSE * log2(e), delta = sum(O dO). Rows without keys and padding get +infinity and 0, so that their
/// probabilities vanish. Grid (padded * D / 1024, heads, batch); a row's D / 8 lanes take 8 elements each.
template <int D>
GPU_KERNEL GPU_LAUNCH_BOUNDS(128, 1) attention_backward_prepare(GPU_PARAMETER PrepareParameters p) {
  constexpr int kLanes = D / 8;
  const int row = gpu::block_x() * (128 / kLanes) + gpu::thread_index() / kLanes, c = gpu::thread_index() % kLanes;
  const int head = gpu::block_y(), b = gpu::block_z();
  float sum = 0;
  if (row < p.sizes.queries && !p.delta) {
    float out[8];
    const long long at = b * p.out_strides.batch + row * p.out_strides.row + head * p.out_strides.head + c * 8;
    if (p.out_float32) {
      const float4* from = reinterpret_cast<const float4*>(static_cast<const float*>(p.out) + at);
      const float4 x = gpu::global_load(from), y = gpu::global_load(from + 1);
      out[0] = x.x, out[1] = x.y, out[2] = x.z, out[3] = x.w, out[4] = y.x, out[5] = y.y, out[6] = y.z, out[7] = y.w;
    } else {
      const uint4 x = gpu::global_load(reinterpret_cast<const uint4*>(static_cast<const gpu::bfloat16*>(p.out) + at));
      const std::uint32_t words[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float2 pair = gpu::unpack_bfloat16(words[i]);
        out[2 * i] = pair.x, out[2 * i + 1] = pair.y;
      }
    }
    const uint4 y = gpu::global_load(reinterpret_cast<const uint4*>(p.dout.row(b, row, head) + c * 8));
    const std::uint32_t words[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float2 pair = gpu::unpack_bfloat16(words[i]);
      sum += out[2 * i] * pair.x + out[2 * i + 1] * pair.y;
    }
  }
#pragma unroll
  for (int m = kLanes / 2; m; m >>= 1) sum += gpu::shuffle_xor(sum, m);
  if (c == 0 && row < p.statistics.padded) {
    const long long at = static_cast<long long>(b) * p.sizes.heads + head;
    const float lse = row < p.sizes.queries ? gpu::global_load(p.log_sum_exp + at * p.sizes.queries + row) : -kInfinity;
    gpu::global_store(p.statistics.log2_sum_exp + at * p.statistics.padded + row,
                      lse == -kInfinity ? kInfinity : lse * kLog2E);
    if (p.delta)
      sum = row < p.sizes.queries
                ? gpu::global_load(p.delta + (static_cast<long long>(b) * p.sizes.queries + row) * p.sizes.heads + head)
                : 0.0f;
    gpu::global_store(p.statistics.delta + at * p.statistics.padded + row, sum);
  }
}

template <int D_, int M_, int WARPS, int TILE, int CHUNK, int BLOCKS>
struct BackwardConfig {
  static constexpr int D = D_, M = M_, kThreads = 32 * WARPS, kBlocks = BLOCKS;
  static constexpr int kOwn = 16 * M * WARPS;  // rows a block owns
  static constexpr int kTile = TILE;           // rows of the other side a stage
  static constexpr int kChunk = CHUNK;         // of which this many are in registers at a time
  static constexpr int kOwnBytes = kOwn * D * 2, kTileBytes = kTile * D * 2;
  static constexpr int kStageBytes = 2 * kTileBytes + 2 * kTile * 4;  // two tiles and, for dK/dV, the statistics
  static constexpr int kSharedBytes = 2 * kOwnBytes + 2 * kStageBytes;
};
using BackwardKeys64 = BackwardConfig<64, 1, 4, 64, 64, 2>;
using BackwardQueries64 = BackwardConfig<64, 1, 4, 64, 64, 2>;
using BackwardKeys128 = BackwardConfig<128, 1, 4, 64, 32, 1>;
using BackwardQueries128 = BackwardConfig<128, 1, 4, 64, 64, 1>;

struct PartSumParameters {
  const float *dk_parts, *dv_parts;  // [b, t, kv_heads, parts, d]
  HeadOutput dk, dv;
  int keys, kv_heads, parts, head_dim;
};
/// dK and dV out of those of the parts of a group, in their order. Grid (a thread for four elements, dK and dV, batch).
GPU_KERNEL GPU_LAUNCH_BOUNDS(256, 1) attention_backward_part_sum(GPU_PARAMETER PartSumParameters p) {
  const long long at = (static_cast<long long>(gpu::block_x()) * 256 + gpu::thread_index()) * 4;
  const int b = gpu::block_z();
  if (at >= static_cast<long long>(p.keys) * p.kv_heads * p.head_dim) return;
  const int d = static_cast<int>(at % p.head_dim), head = static_cast<int>(at / p.head_dim % p.kv_heads),
            key = static_cast<int>(at / p.head_dim / p.kv_heads);
  const HeadOutput& out = gpu::block_y() == 0 ? p.dk : p.dv;
  const float* from = (gpu::block_y() == 0 ? p.dk_parts : p.dv_parts) +
                      ((static_cast<long long>(b) * p.keys + key) * p.kv_heads + head) * p.parts * p.head_dim + d;
  float4 sum = gpu::global_load_mutable(reinterpret_cast<const float4*>(from));
  for (int part = 1; part < p.parts - (GPU_FAULT(backward_part_lost) ? 1 : 0); part++) {
    const float4 x = gpu::global_load_mutable(reinterpret_cast<const float4*>(from + part * p.head_dim));
    sum.x += x.x, sum.y += x.y, sum.z += x.z, sum.w += x.w;
  }
  const long long to = out.offset(b, key, head) + d;
  if (!out.float32) {
    gpu::global_store(reinterpret_cast<uint2*>(static_cast<gpu::bfloat16*>(out.data) + to),
                      uint2{gpu::pack_bfloat16(sum.x, sum.y), gpu::pack_bfloat16(sum.z, sum.w)});
    return;
  }
  float4* const result = reinterpret_cast<float4*>(static_cast<float*>(out.data) + to);
  if (out.accumulate) {
    const float4 old = gpu::global_load_mutable(result);
    sum.x += old.x, sum.y += old.y, sum.z += old.z, sum.w += old.w;
  }
  gpu::global_store(result, sum);
}

struct BackwardParameters {
  HeadTensor q, k, v, dout;
  HeadOutput dq, dk, dv;
  BackwardStatistics statistics;
  MaskView mask;
  AttentionSizes sizes;
};

/// dV and dK, from S' = K Q' and dP' = V dO': keys are rows, queries columns. Grid (key tiles, kv heads x parts,
/// batch).
template <typename C>
GPU_KERNEL GPU_LAUNCH_BOUNDS(C::kThreads, C::kBlocks) attention_backward_keys(GPU_PARAMETER BackwardParameters p) {
  constexpr int D = C::D, M = C::M, kTile = C::kTile, kChunk = C::kChunk;
  const int lane = gpu::thread_index() & 31, warp = gpu::thread_index() / 32, warp_row = warp * 16 * M;
  const int key_tile = gpu::block_x(), part = gpu::block_y(), b = gpu::block_z(), k0 = key_tile * C::kOwn;
  const int heads = p.sizes.part_heads, kv_head = part / p.sizes.parts;
  const std::uint32_t keys_at = gpu::shared_base(), values_at = keys_at + C::kOwnBytes,
                      stages = values_at + C::kOwnBytes;
  const int query_tiles = (p.sizes.queries + kTile - 1) / kTile;

  const int2 key_bounds = key_tile_bounds<C::kOwn>(p.mask, b, key_tile);
  auto tiles =
      walk_tiles([=](int i) { return cover(query_tile_bounds<kTile>(p.mask, b, i % query_tiles), key_bounds); },
                 query_tiles * heads);  // head by head

  auto load_stage = [&](int i, int stage) {
    const int head = part * heads + i / query_tiles, q0 = i % query_tiles * kTile;
    const int rows = p.sizes.queries - q0;
    const std::uint32_t at = stages + stage * C::kStageBytes, statistics_at = at + 2 * C::kTileBytes;
    load_tile<D, kTile, C::kThreads>(at, p.q.row(b, q0, head), p.q.strides.row, rows);
    load_tile<D, kTile, C::kThreads>(at + C::kTileBytes, p.dout.row(b, q0, head), p.dout.strides.row, rows);
    const long long from = (static_cast<long long>(b) * p.sizes.heads + head) * p.statistics.padded + q0;
    const int n = gpu::thread_index();
    if (n < kTile / 2) {
      const float* source =
          n < kTile / 4 ? p.statistics.log2_sum_exp + from + n * 4 : p.statistics.delta + from + (n - kTile / 4) * 4;
      gpu::copy_async_16(statistics_at + n * 16, source, true);
    }
  };
  bool whole = false, next_whole = false;
  int tile = tiles.next(whole);
  load_tile<D, C::kOwn, C::kThreads>(keys_at, p.k.row(b, k0, kv_head), p.k.strides.row, p.sizes.keys - k0);
  load_tile<D, C::kOwn, C::kThreads>(values_at, p.v.row(b, k0, kv_head), p.v.strides.row, p.sizes.keys - k0);
  if (tile >= 0) load_stage(tile, 0);
  gpu::copy_async_commit();

  float dk[M][D / 8][4] = {}, dv[M][D / 8][4] = {};
  const float scale = p.sizes.scale * kLog2E;

  for (int stage = 0; tile >= 0; stage ^= 1) {
    if (!GPU_FAULT(backward_copy_wait)) gpu::copy_async_wait<0>();
    if (!GPU_FAULT(backward_barrier)) gpu::block_sync();
    const int next_tile = tiles.next(next_whole);
    if (next_tile >= 0) load_stage(next_tile, GPU_FAULT(backward_stage_overwritten) ? stage : stage ^ 1);
    gpu::copy_async_commit();
    const std::uint32_t q_tile = stages + stage * C::kStageBytes, dout_tile = q_tile + C::kTileBytes;
    const std::uint32_t statistics_at = dout_tile + C::kTileBytes;
    const int q0 = tile % query_tiles * kTile;
#pragma unroll 1
    for (int q = 0; q < kTile; q += kChunk) {
      float s[M][kChunk / 8][4] = {}, dp[M][kChunk / 8][4] = {};
#pragma unroll
      for (int d = 0; d < D / 16; d++) {
        std::uint32_t key[M][4], value[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) {
          load_a<D>(key[m], keys_at, warp_row + m * 16, d);
          load_a<D>(value[m], values_at, warp_row + m * 16, d);
        }
#pragma unroll
        for (int n = 0; n < kChunk / 16; n++) {
          std::uint32_t query[4], dout[4];
          if (GPU_FAULT(backward_row_stride))
            load_b<D / 2>(query, q_tile, q + n * 16, d / 2);
          else
            load_b<D>(query, q_tile, q + n * 16, d);
          load_b<D>(dout, dout_tile, q + n * 16, d);
#pragma unroll
          for (int m = 0; m < M; m++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
              gpu::mma_16x8x16(s[m][2 * n + e], key[m], query[2 * e], query[2 * e + 1]);
              gpu::mma_16x8x16(dp[m][2 * n + e], value[m], dout[2 * e], dout[2 * e + 1]);
            }
        }
      }
      if (!whole) {
        int index[M][2];
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
          for (int half = 0; half < 2; half++)
            index[m][half] = index_of_key(p.mask, p.sizes, b, k0 + warp_row + m * 16 + half * 8 + lane / 4);
#pragma unroll
        for (int n = 0; n < kChunk / 8; n++)
#pragma unroll
          for (int e = 0; e < 2; e++) {
            int2 range = visible_range(p.mask, p.sizes, b, q0 + q + n * 8 + 2 * (lane & 3) + e);
            if (GPU_FAULT(backward_mask)) range.x++;
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
              for (int half = 0; half < 2; half++)
                if (index[m][half] < range.x || index[m][half] > range.y) s[m][n][2 * half + e] = -kInfinity;
          }
      }
#pragma unroll
      for (int n = 0; n < kChunk / 8; n++) {
        const std::uint32_t column = statistics_at + (q + n * 8 + 2 * (lane & 3)) * 4;
        const float2 lse = gpu::shared_load<float2>(column), delta = gpu::shared_load<float2>(column + kTile * 4);
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
          for (int i = 0; i < 4; i++) {
            s[m][n][i] = gpu::exp2_fast(s[m][n][i] * scale - (i & 1 ? lse.y : lse.x));
            dp[m][n][i] = s[m][n][i] * (dp[m][n][i] - (i & 1 ? delta.y : delta.x));
          }
      }
#pragma unroll
      for (int n = 0; n < kChunk / 16; n++) {
        std::uint32_t probabilities[M][4], ds[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) {
          round_to_a(probabilities[m], s[m][2 * n], s[m][2 * n + 1]);
          round_to_a(ds[m], dp[m][2 * n], dp[m][2 * n + 1]);
        }
#pragma unroll
        for (int d = 0; d < D / 16; d++) {
          std::uint32_t dout[4], query[4];
          load_b_transposed<D>(dout, dout_tile, q + n * 16, d);
          load_b_transposed<D>(query, q_tile, q + n * 16, d);
#pragma unroll
          for (int m = 0; m < M; m++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
              gpu::mma_16x8x16(dv[m][2 * d + e], probabilities[m], dout[2 * e], dout[2 * e + 1]);
              gpu::mma_16x8x16(dk[m][2 * d + e], ds[m], query[2 * e], query[2 * e + 1]);
            }
        }
      }
    }
    tile = next_tile, whole = next_whole;
  }
  gpu::copy_async_wait<0>();
  gpu::block_sync();
#pragma unroll
  for (int m = 0; m < M; m++) {
    const int row = k0 + warp_row + m * 16, valid = p.sizes.keys - row;
#pragma unroll
    for (int j = 0; j < D / 8; j++)
#pragma unroll
      for (int i = 0; i < 4; i++) dk[m][j][i] *= p.sizes.scale;
    store_rows<D>(p.dk, b, row, part, valid, dk[m][0], keys_at, warp_row + m * 16);
    store_rows<D>(p.dv, b, row, part, valid, dv[m][0], values_at, warp_row + m * 16);
  }
}

/// dQ, from S = Q K' and dP = dO V': queries are rows, keys columns. Grid (query tiles, heads, batch).
template <typename C>
GPU_KERNEL GPU_LAUNCH_BOUNDS(C::kThreads, C::kBlocks) attention_backward_queries(GPU_PARAMETER BackwardParameters p) {
  constexpr int D = C::D, M = C::M, kTile = C::kTile, kChunk = C::kChunk;
  const int lane = gpu::thread_index() & 31, warp = gpu::thread_index() / 32, warp_row = warp * 16 * M;
  const int query_tiles = (p.sizes.queries + C::kOwn - 1) / C::kOwn;
  const int query_tile = query_tiles - 1 - gpu::block_x();
  const int head = gpu::block_y(), b = gpu::block_z(), q0 = query_tile * C::kOwn, kv_head = head / p.sizes.group;
  const std::uint32_t queries_at = gpu::shared_base(), dout_at = queries_at + C::kOwnBytes,
                      stages = dout_at + C::kOwnBytes;

  const int4 query_bounds = query_tile_bounds<C::kOwn>(p.mask, b, query_tile);
  auto tiles = walk_tiles([=](int i) { return cover(query_bounds, key_tile_bounds<kTile>(p.mask, b, i)); },
                          (p.sizes.keys + kTile - 1) / kTile);

  auto load_stage = [&](int i, int stage) {
    const std::uint32_t at = stages + stage * 2 * C::kTileBytes;
    const int rows = p.sizes.keys - i * kTile;
    load_tile<D, kTile, C::kThreads>(at, p.k.row(b, i * kTile, kv_head), p.k.strides.row, rows);
    load_tile<D, kTile, C::kThreads>(at + C::kTileBytes, p.v.row(b, i * kTile, kv_head), p.v.strides.row, rows);
  };
  bool whole = false, next_whole = false;
  int tile = tiles.next(whole);
  load_tile<D, C::kOwn, C::kThreads>(queries_at, p.q.row(b, q0, head), p.q.strides.row, p.sizes.queries - q0);
  load_tile<D, C::kOwn, C::kThreads>(dout_at, p.dout.row(b, q0, head), p.dout.strides.row, p.sizes.queries - q0);
  if (tile >= 0) load_stage(tile, 0);
  gpu::copy_async_commit();

  float dq[M][D / 8][4] = {}, lse[M][2], delta[M][2];
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const long long at = (static_cast<long long>(b) * p.sizes.heads + head) * p.statistics.padded + q0 + warp_row +
                           m * 16 + half * 8 + lane / 4;
      lse[m][half] = gpu::global_load(static_cast<const float*>(p.statistics.log2_sum_exp) + at);
      delta[m][half] = gpu::global_load(static_cast<const float*>(p.statistics.delta) + at);
    }
  const float scale = p.sizes.scale * kLog2E;

  for (int stage = 0; tile >= 0; stage ^= 1) {
    gpu::copy_async_wait<0>();
    gpu::block_sync();
    const int next_tile = tiles.next(next_whole);
    if (next_tile >= 0) load_stage(next_tile, stage ^ 1);
    gpu::copy_async_commit();
    const std::uint32_t k_tile = stages + stage * 2 * C::kTileBytes, v_tile = k_tile + C::kTileBytes;
#pragma unroll 1
    for (int k = 0; k < kTile; k += kChunk) {
      float s[M][kChunk / 8][4] = {}, dp[M][kChunk / 8][4] = {};
#pragma unroll
      for (int d = 0; d < D / 16; d++) {
        std::uint32_t query[M][4], dout[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) {
          load_a<D>(query[m], queries_at, warp_row + m * 16, d);
          load_a<D>(dout[m], dout_at, warp_row + m * 16, d);
        }
#pragma unroll
        for (int n = 0; n < kChunk / 16; n++) {
          std::uint32_t key[4], value[4];
          load_b<D>(key, k_tile, k + n * 16, d);
          load_b<D>(value, v_tile, k + n * 16, d);
#pragma unroll
          for (int m = 0; m < M; m++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
              gpu::mma_16x8x16(s[m][2 * n + e], query[m], key[2 * e], key[2 * e + 1]);
              gpu::mma_16x8x16(dp[m][2 * n + e], dout[m], value[2 * e], value[2 * e + 1]);
            }
        }
      }
      if (!whole) {
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
          for (int half = 0; half < 2; half++) {
            const int2 range = visible_range(p.mask, p.sizes, b, q0 + warp_row + m * 16 + half * 8 + lane / 4);
#pragma unroll
            for (int n = 0; n < kChunk / 8; n++)
#pragma unroll
              for (int e = 0; e < 2; e++) {
                const int index = index_of_key(p.mask, p.sizes, b, tile * kTile + k + n * 8 + 2 * (lane & 3) + e);
                if (index < range.x || index > range.y) s[m][n][2 * half + e] = -kInfinity;
              }
          }
      }
#pragma unroll
      for (int n = 0; n < kChunk / 16; n++) {
        std::uint32_t ds[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) {
#pragma unroll
          for (int j = 2 * n; j < 2 * n + 2; j++)
#pragma unroll
            for (int i = 0; i < 4; i++)
              dp[m][j][i] = gpu::exp2_fast(s[m][j][i] * scale - lse[m][i / 2]) *
                            (dp[m][j][i] - (GPU_FAULT(backward_no_delta) ? 0 : delta[m][i / 2]));
          round_to_a(ds[m], dp[m][2 * n], dp[m][2 * n + 1]);
        }
#pragma unroll
        for (int d = 0; d < D / 16; d++) {
          std::uint32_t key[4];
          load_b_transposed<D>(key, k_tile, k + n * 16, d);
#pragma unroll
          for (int m = 0; m < M; m++) {
            gpu::mma_16x8x16(dq[m][2 * d], ds[m], key[0], key[1]);
            gpu::mma_16x8x16(dq[m][2 * d + 1], ds[m], key[2], key[3]);
          }
        }
      }
    }
    tile = next_tile, whole = next_whole;
  }
  gpu::copy_async_wait<0>();
  gpu::block_sync();
#pragma unroll
  for (int m = 0; m < M; m++) {
    const int row = q0 + warp_row + m * 16, valid = p.sizes.queries - row;
#pragma unroll
    for (int j = 0; j < D / 8; j++)
#pragma unroll
      for (int i = 0; i < 4; i++) dq[m][j][i] *= p.sizes.scale;
    store_rows<D>(p.dq, b, row, head, valid, dq[m][0], queries_at, warp_row + m * 16);
  }
}

}  // namespace longhaul::cuda
