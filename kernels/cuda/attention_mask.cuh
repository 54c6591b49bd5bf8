// The mask of an attention call, made once and read by every layer: visible ranges and the bounds of their granules.
#pragma once
#include "kernels/cuda/attention_common.cuh"

namespace longhaul::cuda {

struct MaskParameters {
  const int *query_index, *key_start;  // [b][s]
  const int* key_index;                // [b][t]
  int queries, keys, window;
  int2* ranges;
  int* key_index_copy;  // so that the mask outlives its inputs
  int4* query_bounds;
  int2* key_bounds;
  int query_granules, key_granules;
};

/// One warp a granule; grid (the greater number of granules, batch).
GPU_KERNEL GPU_LAUNCH_BOUNDS(32, 1) prepare_mask(GPU_PARAMETER MaskParameters p) {
  const int granule = gpu::block_x(), b = gpu::block_y(), lane = gpu::thread_index();
  if (granule < p.query_granules) {
    int4 bounds = {kFar, -kFar, kFar, -kFar};
    for (int q = granule * kGranule + lane; q < gpu::minimum(p.queries, (granule + 1) * kGranule); q += 32) {
      const long long at = static_cast<long long>(b) * p.queries + q;
      const int own = gpu::global_load(p.query_index + at);
      int first = gpu::global_load(p.key_start + at);
      if (p.window) first = gpu::maximum(first, own - p.window + (GPU_FAULT(mask_window_one_short) ? 2 : 1));
      gpu::global_store(p.ranges + at, int2{first, own});
      bounds = int4{gpu::minimum(bounds.x, first), gpu::maximum(bounds.y, first), gpu::minimum(bounds.z, own),
                    gpu::maximum(bounds.w, own)};
    }
    for (int m = 16; m; m >>= 1)
      bounds = int4{
          gpu::minimum(bounds.x, gpu::shuffle_xor(bounds.x, m)), gpu::maximum(bounds.y, gpu::shuffle_xor(bounds.y, m)),
          gpu::minimum(bounds.z, gpu::shuffle_xor(bounds.z, m)), gpu::maximum(bounds.w, gpu::shuffle_xor(bounds.w, m))};
    if (lane == 0) gpu::global_store(p.query_bounds + static_cast<long long>(b) * p.query_granules + granule, bounds);
  }
  if (granule < p.key_granules) {
    int2 bounds = {kFar, -kFar};
    for (int k = granule * kGranule + lane; k < (granule + 1) * kGranule; k += 32) {
      const int index = k < p.keys ? gpu::global_load(p.key_index + static_cast<long long>(b) * p.keys + k) : kFar;
      if (k < p.keys) gpu::global_store(p.key_index_copy + static_cast<long long>(b) * p.keys + k, index);
      bounds = int2{gpu::minimum(bounds.x, index), gpu::maximum(bounds.y, index)};
    }
    for (int m = 16; m; m >>= 1)
      bounds = int2{gpu::minimum(bounds.x, gpu::shuffle_xor(bounds.x, m)),
                    gpu::maximum(bounds.y, gpu::shuffle_xor(bounds.y, m))};
    if (lane == 0) gpu::global_store(p.key_bounds + static_cast<long long>(b) * p.key_granules + granule, bounds);
  }
}

}  // namespace longhaul::cuda
