// Attention backward for sm_90a: five products in one pass. A block owns 128 keys of one kv head and the query heads of
// a part of its group, each of two consumer warpgroups 64 of them; query tiles of 64 rows stream past. With S' = K Q'
// and dP' = V dO' (keys are rows), P' and dS' stay in registers for dV and dK; dS' also goes to shared memory for dQ =
// dS K, which a writer warp adds to global memory.
//
// Order: for every query tile, key tiles add from the last to the first, so the sum is the same every time. A block
// waits only for blocks launched before it (block 0 owns the last key tile). Under a causal mask nobody waits: a block
// starts at its diagonal, where it is the first to add, and at its j-th tile the block before it, which started j tiles
// nearer the end, has already added.
#pragma once
#include "kernels/cuda/attention_common.cuh"

namespace longhaul::cuda {

template <int D_, int STAGES>
struct HopperBackwardConfig {
  static constexpr int D = D_, kStages = STAGES, kThreads = 384, kKeys = 128, kQueries = 64, kPanels = D / 64;
  // They share what 384 threads get at launch, 168 each; more would wait for ever.
  static constexpr int kConsumerRegisters = 240, kProducerRegisters = 24;
  static_assert(kConsumerRegisters * 256 + kProducerRegisters * 128 <= 168 * kThreads);
  static constexpr int kKeyPanel = kKeys * 128, kKeyBytes = kPanels * kKeyPanel;
  static constexpr int kQueryPanel = kQueries * 128, kQueryBytes = kPanels * kQueryPanel;
  static constexpr int kDsBytes = kKeys * 128;  // dS', 64 queries a line, twice
  static constexpr int kDqBytes = kQueries * D * 4;
  static constexpr int kValuesAt = kKeyBytes, kQueriesAt = 2 * kKeyBytes, kDoutAt = kQueriesAt + kStages * kQueryBytes,
                       kDsAt = kDoutAt + kStages * kQueryBytes, kDqAt = kDsAt + 2 * kDsBytes;
  static constexpr int kStatisticsAt = kDqAt + kDqBytes, kInfoAt = kStatisticsAt + kStages * 2 * kQueries * 4,
                       kBarriersAt = kInfoAt + kStages * 16, kSharedBytes = kBarriersAt + 8 * (3 + 4 * kStages);
  static_assert(kSharedBytes <= 227 << 10);
};
using HopperBackward64 = HopperBackwardConfig<64, 2>;
using HopperBackward128 = HopperBackwardConfig<128, 2>;

struct HopperBackwardParameters {
  gpu::TensorMap q, dout, k, v;  // boxes {64, 64, 1, 1} for q and dout, {64, 128, 1, 1} for k and v
  HeadOutput dk, dv;
  BackwardStatistics statistics;
  float* dq_sum;  // [b][h][query tile][64 * D], in accumulator order, zeroed before
  int* turn;      // [b][h][query tile], zeroed before: key tiles already added
  int ordered;
  MaskView mask;
  AttentionSizes sizes;
};

/// Grid (key tiles, kv heads x parts, batch).
template <typename C>
GPU_KERNEL GPU_LAUNCH_BOUNDS(C::kThreads, 1) attention_backward_wgmma(GPU_PARAMETER HopperBackwardParameters p) {
  constexpr int D = C::D, kStages = C::kStages, Q = C::kQueries;
  const int lane = gpu::thread_index() & 31, warp = gpu::thread_index() / 32, group = gpu::thread_index() / 128 - 1;
  const int key_tiles = (p.sizes.keys + C::kKeys - 1) / C::kKeys, query_tiles = (p.sizes.queries + Q - 1) / Q;
  const int key_tile = key_tiles - 1 - gpu::block_x(), part = gpu::block_y(), b = gpu::block_z();
  const int k0 = key_tile * C::kKeys;
  const std::uint32_t keys_at = gpu::shared_base(), values_at = keys_at + C::kValuesAt,
                      queries_at = keys_at + C::kQueriesAt, dout_at = keys_at + C::kDoutAt, ds_at = keys_at + C::kDsAt,
                      dq_at = keys_at + C::kDqAt, statistics_at = keys_at + C::kStatisticsAt,
                      info_at = keys_at + C::kInfoAt, barriers = keys_at + C::kBarriersAt;
  const std::uint32_t keys_full = barriers, dq_full = barriers + 8, dq_empty = barriers + 16;
  enum { kQueriesFull, kQueriesEmpty, kDoutFull, kDoutEmpty };
  auto barrier = [=](int kind, int stage) { return barriers + 24 + 8 * (kind * kStages + stage); };

  if (gpu::thread_index() == 0) {
    for (int i = 0; i < kStages; i++) {
      gpu::mbarrier_init(barrier(kQueriesFull, i), 1);
      gpu::mbarrier_init(barrier(kDoutFull, i), 1);
      gpu::mbarrier_init(barrier(kQueriesEmpty, i), 9);  // the consumers' warps and the writer
      gpu::mbarrier_init(barrier(kDoutEmpty, i), 8);
    }
    gpu::mbarrier_init(keys_full, 1);
    gpu::mbarrier_init(dq_full, GPU_FAULT(hopper_backward_half_barrier) ? 4 : 8);
    gpu::mbarrier_init(dq_empty, 1);
    gpu::mbarrier_init_fence();
  }
  gpu::block_sync();

  if (group < 0) {
    gpu::registers_decrease<C::kProducerRegisters>();
    if (warp == 0) {  // ---- walks the query tiles, loads them and says what they are
      const int2 key_bounds = key_tile_bounds<C::kKeys>(p.mask, b, key_tile);
      auto test = [=](int t) { return cover(query_tile_bounds<Q>(p.mask, b, t), key_bounds); };
      int i = 0;
      for (int head = part * p.sizes.part_heads; head < (part + 1) * p.sizes.part_heads; head++) {
        auto tiles = walk_tiles(test, query_tiles);
        bool whole;
        for (int t; (t = tiles.next(whole)) >= 0; i++) {
          if (lane != 0) continue;
          if (i == 0) {
            const int kv_head = part / p.sizes.parts;
            gpu::mbarrier_arrive_expect(keys_full, 2 * C::kKeyBytes);
            for (int c = 0; c < C::kPanels; c++) {
              gpu::tensor_load_4d(keys_at + c * C::kKeyPanel, &p.k, keys_full, c * 64, k0, kv_head, b);
              gpu::tensor_load_4d(values_at + c * C::kKeyPanel, &p.v, keys_full, c * 64, k0, kv_head, b);
            }
          }
          const int stage = i % kStages, parity = (i / kStages & 1) ^ 1, q0 = t * Q;
          const int from = (b * p.sizes.heads + head) * p.statistics.padded + q0;  // 24 registers: no long ones
          gpu::mbarrier_wait(barrier(kQueriesEmpty, stage), parity);
          gpu::shared_store(info_at + stage * 16, int4{t, head, whole, 0});
          gpu::mbarrier_arrive_expect(barrier(kQueriesFull, stage), C::kQueryBytes + Q * 4);
          for (int c = 0; c < C::kPanels; c++)
            gpu::tensor_load_4d(queries_at + stage * C::kQueryBytes + c * C::kQueryPanel, &p.q,
                                barrier(kQueriesFull, stage), c * 64, q0, head, b);
          gpu::bulk_load(statistics_at + stage * 2 * Q * 4, p.statistics.log2_sum_exp + from, Q * 4,
                         barrier(kQueriesFull, stage));
          gpu::mbarrier_wait(barrier(kDoutEmpty, stage), parity);
          gpu::mbarrier_arrive_expect(barrier(kDoutFull, stage), C::kQueryBytes + Q * 4);
          for (int c = 0; c < C::kPanels; c++)
            gpu::tensor_load_4d(dout_at + stage * C::kQueryBytes + c * C::kQueryPanel, &p.dout,
                                barrier(kDoutFull, stage), c * 64, q0, head, b);
          gpu::bulk_load(statistics_at + (stage * 2 + 1) * Q * 4, p.statistics.delta + from, Q * 4,
                         barrier(kDoutFull, stage));
        }
      }
      if (lane == 0) {  // the end
        gpu::mbarrier_wait(barrier(kQueriesEmpty, i % kStages), (i / kStages & 1) ^ 1);
        gpu::shared_store(info_at + i % kStages * 16, int4{-1, 0, 0, 0});
        gpu::mbarrier_arrive(barrier(kQueriesFull, i % kStages));
      }
    } else if (warp == 1) {  // ---- adds dQ tiles, each when the key tiles after this one have been added
      for (int i = 0;; i++) {
        gpu::mbarrier_wait(barrier(kQueriesFull, i % kStages), i / kStages & 1);
        const int4 info = gpu::shared_load<int4>(info_at + i % kStages * 16);
        if (info.x < 0) break;
        gpu::warp_sync();
        if (lane == 0) gpu::mbarrier_arrive(barrier(kQueriesEmpty, i % kStages));
        int rank = 0;  // of this key tile among those that the query tile sees
        const int4 query_bounds = query_tile_bounds<Q>(p.mask, b, info.x);
#pragma unroll 1
        for (int k = key_tile + 1; k < key_tiles; k += 32)
          rank += gpu::count_bits(gpu::ballot(
              k + lane < key_tiles && cover(query_bounds, key_tile_bounds<C::kKeys>(p.mask, b, k + lane)) != kNone));
        if (lane == 0) {
          const int at = (b * p.sizes.heads + info.y) * query_tiles + info.x;
          gpu::mbarrier_wait(dq_full, i & 1);
          if (p.ordered && !GPU_FAULT(hopper_backward_turns_ignored)) gpu::await_equal(p.turn + at, rank);
          gpu::bulk_add_float(p.dq_sum + static_cast<long long>(at) * (Q * D), dq_at, C::kDqBytes);
          gpu::bulk_wait_read();
          gpu::mbarrier_arrive(dq_empty);
          if (p.ordered) {
            gpu::bulk_wait();
            gpu::publish(p.turn + at, rank + 1);
          }
        }
      }
      if (lane == 0) gpu::bulk_wait();
    }
    return;
  }

  // ---- the consumers
  gpu::registers_increase<C::kConsumerRegisters>();
  const float scale = p.sizes.scale * kLog2E;
  const int warp_row = group * 64 + (warp & 3) * 16;  // of this warp's keys, in the block's tile
  float dk[D / 2] = {}, dv[D / 2] = {}, s[Q / 2], dp[Q / 2], dq[D / 4];
  std::uint32_t probabilities[Q / 16][4], ds[Q / 16][4];
  auto release = [&](std::uint32_t at) {
    if (lane == 0) gpu::mbarrier_arrive(at);
  };

  for (int i = 0;; i++) {
    const int stage = i % kStages, parity = i / kStages & 1;
    const std::uint32_t q_tile = queries_at + stage * C::kQueryBytes, dout_tile = dout_at + stage * C::kQueryBytes;
    const std::uint32_t lse_at = statistics_at + stage * 2 * Q * 4, ds_tile = ds_at + (i & 1) * C::kDsBytes;
    gpu::mbarrier_wait(barrier(kQueriesFull, stage), parity);
    const int4 info = gpu::shared_load<int4>(info_at + stage * 16);
    if (info.x < 0) break;
    if (i == 0) gpu::mbarrier_wait(keys_full, 0);
    gpu::wgmma_fence();
#pragma unroll
    for (int d = 0; d < D / 16; d++)
      gpu::wgmma_kk<Q>(s, gpu::wgmma_descriptor(keys_at + d / 4 * C::kKeyPanel + group * 8192 + d % 4 * 32, 16, 1024),
                       gpu::wgmma_descriptor(q_tile + d / 4 * C::kQueryPanel + d % 4 * 32, 16, 1024), d > 0);
    gpu::wgmma_commit();
    gpu::mbarrier_wait(barrier(kDoutFull, stage), parity);
    gpu::wgmma_fence();
#pragma unroll
    for (int d = 0; d < D / 16; d++)
      gpu::wgmma_kk<Q>(dp,
                       gpu::wgmma_descriptor(values_at + d / 4 * C::kKeyPanel + group * 8192 + d % 4 * 32, 16, 1024),
                       gpu::wgmma_descriptor(dout_tile + d / 4 * C::kQueryPanel + d % 4 * 32, 16, 1024), d > 0);
    gpu::wgmma_commit();
    gpu::wgmma_wait<1>();
    if (!info.z && !GPU_FAULT(hopper_backward_mask)) {
      const int index[2] = {index_of_key(p.mask, p.sizes, b, k0 + warp_row + lane / 4),
                            index_of_key(p.mask, p.sizes, b, k0 + warp_row + 8 + lane / 4)};
#pragma unroll
      for (int n = 0; n < Q / 8; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          if (e == 0 && n % 2 == 0) gpu::warp_sync();  // keeps ptxas from loading all ranges at once, and spilling
          const int2 range = visible_range(p.mask, p.sizes, b, info.x * Q + n * 8 + 2 * (lane & 3) + e);
#pragma unroll
          for (int half = 0; half < 2; half++)
            if (index[half] < range.x || index[half] > range.y) s[n * 4 + 2 * half + e] = -kInfinity;
        }
    }
#pragma unroll
    for (int n = 0; n < Q / 8; n++) {
      const float2 lse = gpu::shared_load<float2>(lse_at + (n * 8 + 2 * (lane & 3)) * 4);
#pragma unroll
      for (int j = 0; j < 4; j++) s[n * 4 + j] = gpu::exp2_fast(s[n * 4 + j] * scale - (j & 1 ? lse.y : lse.x));
    }
    gpu::wgmma_wait<0>();
#pragma unroll
    for (int n = 0; n < Q / 8; n++) {
      const float2 delta = gpu::shared_load<float2>(lse_at + (Q + n * 8 + 2 * (lane & 3)) * 4);
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float* y = s + n * 4 + 2 * half;
        probabilities[n / 2][n % 2 * 2 + half] = gpu::pack_bfloat16(y[0], y[1]);
        ds[n / 2][n % 2 * 2 + half] =
            gpu::pack_bfloat16(y[0] * (dp[n * 4 + 2 * half] - delta.x), y[1] * (dp[n * 4 + 2 * half + 1] - delta.y));
      }
    }
    // Fragment n holds four 8 x 8 matrices: two halves of the warp's keys at queries 16 n and 16 n + 8.
#pragma unroll
    for (int n = 0; n < Q / 16; n++)
      gpu::stmatrix_x4(chunk_address<64>(ds_tile, warp_row + (lane & 15), 2 * n + (lane >> 4)), ds[n]);
    if (!GPU_FAULT(hopper_backward_proxy_fence)) gpu::async_proxy_fence();
    // dS' is whole; and both groups have finished the dQ before the last one.
    if (!GPU_FAULT(hopper_backward_barrier)) gpu::named_barrier_sync(1, 256);

    gpu::wgmma_fence();
#pragma unroll
    for (int n = 0; n < Q / 16; n++)
      gpu::wgmma_rm<D>(dv, probabilities[n], gpu::wgmma_descriptor(dout_tile + n * 2048, C::kQueryPanel, 1024), true);
    gpu::wgmma_commit();
    // This group's half of the columns of dQ: a panel (D = 128), or half a panel's line (D = 64).
    const std::uint32_t columns = keys_at + (D == 128 ? group * C::kKeyPanel : group * 64);
#pragma unroll
    for (int n = 0; n < C::kKeys / 16; n++)
      gpu::wgmma_mm<D / 2>(dq, gpu::wgmma_descriptor(ds_tile + n * 2048, 16, 1024),
                           gpu::wgmma_descriptor(columns + n * 2048, 16, 1024), n > 0);
    gpu::wgmma_commit();
#pragma unroll
    for (int n = 0; n < Q / 16; n++)
      gpu::wgmma_rm<D>(dk, ds[n], gpu::wgmma_descriptor(q_tile + n * 2048, C::kQueryPanel, 1024), true);
    gpu::wgmma_commit();
    gpu::wgmma_wait<1>();
    release(barrier(kDoutEmpty, stage));
    if (!GPU_FAULT(hopper_backward_dq_overwritten)) gpu::mbarrier_wait(dq_empty, (i & 1) ^ 1);
#pragma unroll
    for (int j = 0; j < D / 16; j++)
      gpu::shared_store(dq_at + group * (C::kDqBytes / 2) + j * 2048 + (gpu::thread_index() & 127) * 16,
                        float4{dq[4 * j], dq[4 * j + 1], dq[4 * j + 2], dq[4 * j + 3]});
    gpu::async_proxy_fence();
    gpu::warp_sync();
    release(dq_full);
    gpu::wgmma_wait<0>();
    release(barrier(kQueriesEmpty, stage));
  }

  const int valid = p.sizes.keys - k0 - warp_row;
#pragma unroll
  for (int j = 0; j < D / 2; j++) dk[j] *= p.sizes.scale;
  gpu::named_barrier_sync(1, 256);  // the key and value tiles are no longer read: reuse them
  store_rows<D>(p.dk, b, k0 + warp_row, part, valid, dk, keys_at, warp_row);
  store_rows<D>(p.dv, b, k0 + warp_row, part, valid, dv, values_at, warp_row);
}

struct QueryGradientParameters {
  const float* dq_sum;
  HeadOutput dq;
  AttentionSizes sizes;
};
/// dQ out of its sums, row by row. Grid (query tiles, heads, batch).
template <int D>
GPU_KERNEL GPU_LAUNCH_BOUNDS(256, 1) attention_backward_dq_out(GPU_PARAMETER QueryGradientParameters p) {
  const int head = gpu::block_y(), b = gpu::block_z(), tiles = (p.sizes.queries + 63) / 64;
  const int group = gpu::thread_index() / 128, lane = gpu::thread_index() & 31, warp = gpu::thread_index() / 32 & 3;
  const float* from = p.dq_sum +
                      ((static_cast<long long>(b) * p.sizes.heads + head) * tiles + gpu::block_x()) * (64 * D) +
                      group * 32 * D + (gpu::thread_index() & 127) * 4;
  const int row0 = gpu::block_x() * 64 + warp * 16 + lane / 4;
#pragma unroll
  for (int j = 0; j < D / 16; j++) {
    const float4 sums = gpu::global_load(reinterpret_cast<const float4*>(from + j * 512));
    const float x[4] = {sums.x, sums.y, sums.z, sums.w};
#pragma unroll
    for (int half = 0; half < 2; half++) {
      if (row0 + half * 8 >= p.sizes.queries) continue;
      const long long at = p.dq.offset(b, row0 + half * 8, head) + group * (D / 2) + j * 8 + 2 * (lane & 3);
      float2 y = {x[2 * half] * p.sizes.scale, x[2 * half + 1] * p.sizes.scale};
      if (p.dq.float32) {
        float2* to = reinterpret_cast<float2*>(static_cast<float*>(p.dq.data) + at);
        if (p.dq.accumulate) {
          const float2 old = gpu::global_load_mutable(to);
          y.x += old.x, y.y += old.y;
        }
        gpu::global_store(to, y);
      } else {
        gpu::global_store(reinterpret_cast<std::uint32_t*>(static_cast<gpu::bfloat16*>(p.dq.data) + at),
                          gpu::pack_bfloat16(y.x, y.y));
      }
    }
  }
}

}  // namespace longhaul::cuda
