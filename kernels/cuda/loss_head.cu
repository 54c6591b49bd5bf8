// The loss head on one tile of rows: a block a row reads its logits once from memory for the softmax, finds them in the
// cache for the gradient, and writes that in their place.
#include "kernels/cuda/launch.h"
#include "kernels/cuda/vectors.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 512;
constexpr float kLog2E = 1.4426950408889634f;

struct Logit {
  float value, slope;  // slope: of value by the stored logit
};
GPU_DEVICE Logit transform(const LossTile& p, float x) {
  const float z = p.logits_scale * x;
  if (p.soft_cap <= 0) return {z, p.logits_scale};
  const float t = tanhf(z / p.soft_cap);
  return {p.soft_cap * t, p.logits_scale * (1 - t * t)};
}

template <typename T>
GPU_KERNEL GPU_LAUNCH_BOUNDS(kThreads, 1) loss_tile_kernel(GPU_PARAMETER LossTile p) {
  constexpr int W = kWidth<T>;
  const int row = gpu::block_x(), t = gpu::thread_index(), lane = t & 31, warp = t / 32;
  T* logits = static_cast<T*>(p.logits) + row * p.row_stride;
  const int label = gpu::global_load(p.label + row);
  if (label < 0) {  // ignored, the whole block
    if (t == 0) gpu::global_store(p.loss + row, 0.0f);
    if (p.gradient_scale)
      for (int c = t * W; c < p.vocabulary; c += gpu::block_threads() * W) {
        const float zero[W] = {};
        store_vector<T>(logits + c, zero, p.vocabulary - c);
      }
    return;
  }
  // The softmax, online: sum is relative to the greatest so far.
  float top = -1e30f, sum = 0;
  for (int c = t * W; c < p.vocabulary; c += gpu::block_threads() * W) {
    float x[W];
    load_vector<T>(x, logits + c, p.vocabulary - c);
    float greatest = top;
#pragma unroll
    for (int i = 0; i < W; i++) {
      x[i] = c + i < p.vocabulary ? transform(p, x[i]).value : -1e30f;
      greatest = gpu::maximum(greatest, x[i]);
    }
    sum *= gpu::exp2_fast((top - greatest) * kLog2E);
    top = greatest;
#pragma unroll
    for (int i = 0; i < W; i++) sum += c + i < p.vocabulary ? gpu::exp2_fast((x[i] - top) * kLog2E) : 0.0f;
  }
  // Over the block, in a fixed order.
#pragma unroll
  for (int m = 16; m; m >>= 1) {
    const float other_top = gpu::shuffle_xor(top, m), other_sum = gpu::shuffle_xor(sum, m);
    const float greatest = gpu::maximum(top, other_top);
    sum = sum * gpu::exp2_fast((top - greatest) * kLog2E) + other_sum * gpu::exp2_fast((other_top - greatest) * kLog2E);
    top = greatest;
  }
  const std::uint32_t scratch = gpu::shared_base();
  if (lane == 0) gpu::shared_store(scratch + warp * 8, float2{top, sum});
  if (!GPU_FAULT(loss_tile_barrier)) gpu::block_sync();
  float2 all = gpu::shared_load<float2>(scratch);
  for (int i = 1; i < gpu::block_threads() / 32; i++) {
    const float2 other = gpu::shared_load<float2>(scratch + i * 8);
    const float greatest = gpu::maximum(all.x, other.x);
    all.y =
        all.y * gpu::exp2_fast((all.x - greatest) * kLog2E) + other.y * gpu::exp2_fast((other.x - greatest) * kLog2E);
    all.x = greatest;
  }
  if (t == 0) {
    const float own = transform(p, static_cast<float>(gpu::global_load_mutable(logits + label))).value;
    gpu::global_store(p.loss + row, all.x + gpu::log2_fast(all.y) / kLog2E - own);
  }
  if (!p.gradient_scale) return;
  if (!GPU_FAULT(loss_tile_label_overwritten)) gpu::block_sync();  // the label's logit has been read
  const float scale = gpu::global_load(p.gradient_scale), inverse = 1 / all.y;
  for (int c = t * W; c < p.vocabulary; c += gpu::block_threads() * W) {
    float x[W];
    load_vector<T>(x, logits + c, p.vocabulary - c);
#pragma unroll
    for (int i = 0; i < W; i++) {
      const Logit z = transform(p, x[i]);
      const float probability = gpu::exp2_fast((z.value - all.x) * kLog2E) * inverse;
      x[i] = scale * z.slope * (probability - (c + i == label ? 1.0f : 0.0f));
    }
    store_vector<T>(logits + c, x, p.vocabulary - c);
  }
}

}  // namespace

void loss_tile(const LossTile& call, Stream stream) {
  const bool narrow = call.type == Type::bfloat16;
  require(call.row_stride % (narrow ? 8 : 4) == 0 && aligned(call.logits) && call.row_stride >= call.vocabulary,
          "loss_tile: logits must be 16-byte aligned, row_stride a multiple of 16 bytes and at least the vocabulary");
  if (call.rows == 0) return;
  // A small vocabulary does not need a whole block.
  const int vectors = divide_up(call.vocabulary, narrow ? 8 : 4), whole = divide_up(vectors, 32) * 32;
  const int threads = whole < kThreads ? whole : kThreads;
  gpu::launch(narrow ? loss_tile_kernel<gpu::bfloat16> : loss_tile_kernel<float>, dim3(call.rows), threads, 128, call,
              native(stream));
}

}  // namespace longhaul::cuda
