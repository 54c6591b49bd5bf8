// The loss head on rows of logits, whatever their number and alignment; gradients in the type that the products
// after it read. A block a row.
#include "kernels/cuda/generic.cuh"
#include "kernels/cuda/launch.h"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 256;

struct Logit {
  float value, slope;  // slope: of value by the stored logit
};
GPU_DEVICE Logit transform(const LossRows& p, float x) {
  const float z = p.logits_scale * x;
  if (p.soft_cap <= 0) return {z, p.logits_scale};
  const float t = tanhf(z / p.soft_cap);
  return {p.soft_cap * t, p.logits_scale * (1 - t * t)};
}

// A sum of exponentials, relative to the greatest.
GPU_DEVICE float2 joined(float2 a, float2 b) {
  const float top = gpu::maximum(a.x, b.x);
  return float2{
      top, a.y * gpu::exp2_fast((a.x - top) * kLogarithmOf2E) + b.y * gpu::exp2_fast((b.x - top) * kLogarithmOf2E)};
}

GPU_KERNEL GPU_LAUNCH_BOUNDS(kThreads, 1) loss_rows_kernel(GPU_PARAMETER LossRows p) {
  const std::int64_t row = gpu::block_x();
  const int t = gpu::thread_index(), threads = gpu::block_threads();
  const auto logit = [&](std::int64_t c) { return load_element(p.logits, p.type, row * p.row_stride + c); };
  const int label = gpu::global_load(p.label + row);
  if (label < 0) {  // the whole block
    if (t == 0) gpu::global_store(p.loss + row, 0.0f);
    if (p.gradient)
      for (std::int64_t c = t; c < p.vocabulary; c += threads)
        store_element(p.gradient, p.gradient_type, row * p.gradient_stride + c, 0);
    return;
  }
  float2 sum{-1e30f, 0};
  for (std::int64_t c = t; c < p.vocabulary; c += threads) sum = joined(sum, float2{transform(p, logit(c)).value, 1});
  for (int m = 16; m; m >>= 1) sum = joined(sum, float2{gpu::shuffle_xor(sum.x, m), gpu::shuffle_xor(sum.y, m)});
  const std::uint32_t scratch = gpu::shared_base();
  if ((t & 31) == 0) gpu::shared_store(scratch + t / 32 * 8, sum);
  gpu::block_sync();
  sum = gpu::shared_load<float2>(scratch);
  for (int i = 1; i < threads / 32; i++) sum = joined(sum, gpu::shared_load<float2>(scratch + i * 8));
  if (t == 0) {
    const float own = transform(p, logit(label)).value;
    gpu::global_store(p.loss + row, sum.x + logf(sum.y) - own);
  }
  if (!p.gradient) return;
  if (!GPU_FAULT(loss_rows_label_overwritten)) gpu::block_sync();  // the label's logit has been read
  const float scale = static_cast<float>(gpu::global_load(p.gradient_scale)), inverse = 1 / sum.y;
  for (std::int64_t c = t; c < p.vocabulary; c += threads) {
    const Logit z = transform(p, logit(c));
    const float probability = gpu::exp2_fast((z.value - sum.x) * kLogarithmOf2E) * inverse;
    store_element(p.gradient, p.gradient_type, row * p.gradient_stride + c,
                  scale * z.slope * (probability - (c == label ? 1.0f : 0.0f)));
  }
}

}  // namespace

void loss_rows(const LossRows& call, Stream stream) {
  require(call.vocabulary > 0 && call.row_stride >= call.vocabulary, "loss_rows: rows overlap");
  require(!call.gradient || (call.gradient_scale && call.gradient_stride >= call.vocabulary),
          "loss_rows: gradients without their scale, or rows of them overlap");
  if (call.rows == 0) return;
  const std::int64_t whole = divide_up<std::int64_t>(call.vocabulary, 32) * 32;
  gpu::launch(loss_rows_kernel, dim3(static_cast<unsigned>(call.rows)),
              static_cast<int>(whole < kThreads ? whole : kThreads), 128, call, native(stream));
}

}  // namespace longhaul::cuda
