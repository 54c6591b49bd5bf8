// Attention forward for sm_90a. A block owns 64 query rows a consumer warpgroup. One producer warp feeds tiles of keys
// and values through the copy engine and mbarriers; consumers multiply with wgmma. Two overlaps: a warpgroup issues the
// scores of the next tile before the values of the last one, and takes turns with the other, so that the softmax of one
// runs under the products of the other.
//
// A tile in shared memory is D / 64 panels of 64 columns: lines of 128 bytes, swizzled (tests/gpu_emulator/layouts.h).
#pragma once
#include "kernels/cuda/attention_common.cuh"

namespace longhaul::cuda {

template <int D_, int KEYS, int STAGES>
struct HopperForwardConfig {
  static constexpr int D = D_, kKeys = KEYS, kStages = STAGES, kGroups = 2;
  static constexpr int kQueries = 64 * kGroups, kThreads = 128 * (kGroups + 1);
  static constexpr int kPanels = D / 64;
  static constexpr int kQueryPanel = 64 * 128, kQueryBytes = kGroups * kPanels * kQueryPanel;
  static constexpr int kPanel = kKeys * 128, kTileBytes = kPanels * kPanel;
  static constexpr int kBarriersAt = kQueryBytes + 2 * kStages * kTileBytes;
  static constexpr int kSharedBytes = kBarriersAt + 8 * (1 + 4 * kStages);
  static constexpr int kValueColumns = D < 128 ? D : 128, kParts = D / kValueColumns;  // of one wgmma
  // What setmaxnreg redistributes is what the block got at launch; asking for more would wait for ever.
  static constexpr int kLaunchRegisters = 65536 / kThreads / 8 * 8;
  static constexpr int kConsumerRegisters = 240, kProducerRegisters = 24;
  static_assert(128 * (kGroups * kConsumerRegisters + kProducerRegisters) <= kThreads * kLaunchRegisters);
  static_assert(kSharedBytes <= 227 << 10);
};
using HopperForward64 = HopperForwardConfig<64, 128, 2>;
using HopperForward128 = HopperForwardConfig<128, 128, 2>;
using HopperForward256 = HopperForwardConfig<256, 64, 2>;

struct HopperForwardParameters {
  gpu::TensorMap q, k, v;  // {D, rows, heads, batch}; boxes {64, 64, 1, 1} and {64, kKeys, 1, 1}
  HeadOutput out;
  float* log_sum_exp;
  MaskView mask;
  AttentionSizes sizes;
};

/// Grid (query tiles, heads, batch).
template <typename C>
GPU_KERNEL GPU_LAUNCH_BOUNDS(C::kThreads, 1) attention_forward_wgmma(GPU_PARAMETER HopperForwardParameters p) {
  constexpr int D = C::D, N = C::kKeys, kStages = C::kStages;
  const int lane = gpu::thread_index() & 31, warp = gpu::thread_index() / 32, group = gpu::thread_index() / 128 - 1;
  const int query_tiles = (p.sizes.queries + C::kQueries - 1) / C::kQueries;
  const int query_tile = query_tiles - 1 - gpu::block_x(), head = gpu::block_y(), b = gpu::block_z();
  const int q0 = query_tile * C::kQueries, kv_head = head / p.sizes.group;
  const std::uint32_t queries_at = gpu::shared_base(), keys_at = queries_at + C::kQueryBytes,
                      values_at = keys_at + kStages * C::kTileBytes, barriers = queries_at + C::kBarriersAt;
  enum { kKeysFull, kKeysEmpty, kValuesFull, kValuesEmpty };
  auto barrier = [=](int kind, int stage) { return barriers + 8 * (kind * kStages + stage); };
  const std::uint32_t queries_full = barriers + 8 * 4 * kStages;

  if (gpu::thread_index() == 0) {
    for (int i = 0; i < kStages; i++) {
      gpu::mbarrier_init(barrier(kKeysFull, i), 1);
      gpu::mbarrier_init(barrier(kValuesFull, i), 1);
      gpu::mbarrier_init(barrier(kKeysEmpty, i), 4 * C::kGroups);  // every consumer warp
      gpu::mbarrier_init(barrier(kValuesEmpty, i), 4 * C::kGroups);
    }
    gpu::mbarrier_init(queries_full, 1);
    if (!GPU_FAULT(hopper_forward_init_fence)) gpu::mbarrier_init_fence();
  }
  gpu::block_sync();

  const int4 query_bounds = query_tile_bounds<C::kQueries>(p.mask, b, query_tile);
  auto tiles = walk_tiles([=](int t) { return cover(query_bounds, key_tile_bounds<N>(p.mask, b, t)); },
                          (p.sizes.keys + N - 1) / N);
  bool whole = false;
  int tile = tiles.next(whole);

  if (group < 0) {  // ---- the producer
    if (!GPU_FAULT(hopper_forward_register_greed)) gpu::registers_decrease<C::kProducerRegisters>();
    if (warp != 0) return;
    if (lane == 0 && tile >= 0) {  // a tile without keys loads nothing: nobody would wait for it
      gpu::mbarrier_arrive_expect(queries_full, C::kQueryBytes);
      for (int g = 0; g < C::kGroups; g++)
        for (int c = 0; c < C::kPanels; c++)
          gpu::tensor_load_4d(queries_at + (g * C::kPanels + c) * C::kQueryPanel, &p.q, queries_full, c * 64,
                              q0 + g * 64, head, b);
    }
    for (int i = 0; tile >= 0; i++) {
      const int stage = i % kStages, parity = (i / kStages & 1) ^ 1;
      if (lane == 0) {
        gpu::mbarrier_wait(barrier(kKeysEmpty, stage), parity);
        gpu::mbarrier_arrive_expect(barrier(kKeysFull, stage), C::kTileBytes);
        for (int c = 0; c < C::kPanels; c++)
          gpu::tensor_load_4d(keys_at + stage * C::kTileBytes + c * C::kPanel, &p.k, barrier(kKeysFull, stage), c * 64,
                              tile * N, kv_head, b);
        gpu::mbarrier_wait(barrier(kValuesEmpty, stage), parity);
        gpu::mbarrier_arrive_expect(barrier(kValuesFull, stage),
                                    C::kTileBytes + (GPU_FAULT(hopper_forward_bytes_expected) ? 128 : 0));
        for (int c = 0; c < C::kPanels; c++)
          gpu::tensor_load_4d(values_at + stage * C::kTileBytes + c * C::kPanel, &p.v, barrier(kValuesFull, stage),
                              c * 64, tile * N, kv_head, b);
      }
      tile = tiles.next(whole);
    }
    return;
  }

  // ---- the consumers
  gpu::registers_increase<C::kConsumerRegisters>();
  const int row0 = q0 + group * 64 + (warp & 3) * 16;  // of this warp
  const std::uint32_t my_queries = queries_at + group * C::kPanels * C::kQueryPanel;
  const float scale = p.sizes.scale * kLog2E;
  float acc[C::kParts][C::kValueColumns / 2] = {}, s[N / 2], top[2] = {-kInfinity, -kInfinity}, sum[2] = {};
  std::uint32_t probabilities[N / 16][4];

  auto issue_scores = [&](int stage) {
#pragma unroll
    for (int d = 0; d < D / 16; d++) {
      const int panel = d / 4, step = d % 4 * (GPU_FAULT(hopper_forward_swizzle_step) ? 64 : 32);
      gpu::wgmma_kk<N>(s, gpu::wgmma_descriptor(my_queries + panel * C::kQueryPanel + d % 4 * 32, 16, 1024),
                       gpu::wgmma_descriptor(keys_at + stage * C::kTileBytes + panel * C::kPanel + step, 16, 1024),
                       d > 0);
    }
    gpu::wgmma_commit();
  };
  auto issue_values = [&](int stage, bool add) {
#pragma unroll
    for (int n = 0; n < N / 16; n++)
#pragma unroll
      for (int part = 0; part < C::kParts; part++)
        gpu::wgmma_rm<C::kValueColumns>(
            acc[part], probabilities[n],
            gpu::wgmma_descriptor(values_at + stage * C::kTileBytes + part * 2 * C::kPanel + n * 2048,
                                  GPU_FAULT(hopper_forward_value_stride) ? C::kPanel / 2 : C::kPanel, 1024),
            add || n > 0);
    gpu::wgmma_commit();
  };
  auto release = [&](std::uint32_t at) {
    if (lane == 0) gpu::mbarrier_arrive(at);
  };
  auto softmax = [&](int t, bool unmasked, float(&shrink)[2]) {  // scores to probabilities, in place
    if (!unmasked) {
      const int2 range[2] = {visible_range(p.mask, p.sizes, b, row0 + lane / 4),
                             visible_range(p.mask, p.sizes, b, row0 + 8 + lane / 4)};
#pragma unroll
      for (int n = 0; n < N / 8; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const int index = index_of_key(p.mask, p.sizes, b, t * N + n * 8 + 2 * (lane & 3) + e);
#pragma unroll
          for (int half = 0; half < 2; half++)
            if (index < range[half].x || index > range[half].y) s[n * 4 + 2 * half + e] = -kInfinity;
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float greatest = top[half];
#pragma unroll
      for (int n = 0; n < N / 8; n++)
        greatest = gpu::maximum(greatest, gpu::maximum(s[n * 4 + 2 * half], s[n * 4 + 2 * half + 1]));
      greatest = gpu::maximum(greatest, gpu::shuffle_xor(greatest, 1));
      greatest = gpu::maximum(greatest, gpu::shuffle_xor(greatest, 2));
      const float base = greatest == -kInfinity ? 0 : greatest * scale;
      shrink[half] = gpu::exp2_fast(top[half] * scale - base);
      top[half] = greatest;
      float part = 0;
#pragma unroll
      for (int n = 0; n < N / 8; n++)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; e++)
          part += s[n * 4 + e] = gpu::exp2_fast(s[n * 4 + e] * scale - base);
      sum[half] = sum[half] * shrink[half] + part;
    }
  };
  auto round = [&] {
#pragma unroll
    for (int n = 0; n < N / 16; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) probabilities[n][i] = gpu::pack_bfloat16(s[n * 8 + 2 * i], s[n * 8 + 2 * i + 1]);
  };
  // Turns on the tensor cores: named barrier 1 + g lets group g issue. The last group gives group 0 its first turn.
  auto wait_turn = [&] { gpu::named_barrier_sync(1 + group, 256); };
  auto pass_turn = [&](bool last) {
    if (!(last && group == C::kGroups - 1)) gpu::named_barrier_arrive(1 + (group + 1) % C::kGroups, 256);
  };

  if (tile >= 0) {
    if (group == C::kGroups - 1) gpu::named_barrier_arrive(1, 256);
    float shrink[2];
    if (!GPU_FAULT(hopper_forward_query_wait)) gpu::mbarrier_wait(queries_full, 0);
    if (!GPU_FAULT(hopper_forward_key_wait)) gpu::mbarrier_wait(barrier(kKeysFull, 0), 0);
    bool next_whole = false;
    int next_tile = tiles.next(next_whole);
    wait_turn();
    gpu::wgmma_fence();
    issue_scores(0);
    pass_turn(false);
    gpu::wgmma_wait<0>();
    release(barrier(kKeysEmpty, 0));
    softmax(tile, whole, shrink);
    round();
    int i = 0;
    for (; next_tile >= 0; i++) {
      const int stage = i % kStages, ahead = (i + 1) % kStages;
      gpu::mbarrier_wait(barrier(kKeysFull, ahead), (i + 1) / kStages & 1);
      tile = next_tile, whole = next_whole;
      next_tile = tiles.next(next_whole);
      gpu::mbarrier_wait(barrier(kValuesFull, stage), i / kStages & 1);
      wait_turn();
      gpu::wgmma_fence();
      issue_scores(ahead);
      issue_values(stage, i > 0);
      pass_turn(false);
      gpu::wgmma_wait<1>();
      if (!GPU_FAULT(hopper_forward_no_release)) release(barrier(kKeysEmpty, ahead));
      softmax(tile, whole, shrink);
      if (GPU_FAULT(hopper_forward_early_release)) release(barrier(kValuesEmpty, stage));
      if (GPU_FAULT(hopper_forward_registers_reused)) round();
      if (!GPU_FAULT(hopper_forward_wgmma_wait)) gpu::wgmma_wait<0>();
      if (!GPU_FAULT(hopper_forward_early_release)) release(barrier(kValuesEmpty, stage));
#pragma unroll
      for (int part = 0; part < C::kParts; part++)
#pragma unroll
        for (int j = 0; j < C::kValueColumns / 2; j++) acc[part][j] *= shrink[j >> 1 & 1];
      round();
    }
    gpu::mbarrier_wait(barrier(kValuesFull, i % kStages), i / kStages & 1);
    wait_turn();
    gpu::wgmma_fence();
    issue_values(i % kStages, i > 0);
    pass_turn(true);
    gpu::wgmma_wait<0>();
  }

  const int valid = p.sizes.queries - row0;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float total = sum[half];
    total += gpu::shuffle_xor(total, 1);
    total += gpu::shuffle_xor(total, 2);
    const float inverse = total > 0 ? 1 / total : 0;
#pragma unroll
    for (int part = 0; part < C::kParts; part++)
#pragma unroll
      for (int j = 0; j < C::kValueColumns / 8; j++)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; e++) acc[part][j * 4 + e] *= inverse;
    const int r = lane / 4 + half * 8;
    if ((lane & 3) == 0 && r < valid)
      gpu::global_store(p.log_sum_exp + (static_cast<long long>(b) * p.sizes.heads + head) * p.sizes.queries + row0 + r,
                        total > 0 ? (top[half] * scale + gpu::log2_fast(total)) / kLog2E : -kInfinity);
  }
  gpu::named_barrier_sync(8 + group, 128);  // the group's query rows are no longer read: reuse them
  store_rows<D>(p.out, b, row0, head, valid, acc[0], my_queries, (warp & 3) * 16);
}

}  // namespace longhaul::cuda
