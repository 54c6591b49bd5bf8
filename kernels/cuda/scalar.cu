// Scalars in float64 that stay on the device: nothing of a step waits for the host.
#include "kernels/cuda/generic.cuh"
#include "kernels/cuda/launch.h"

namespace longhaul::cuda {
namespace {

GPU_KERNEL constant_kernel(GPU_PARAMETER ScalarConstant p) {
  if (gpu::thread_index() == 0) gpu::global_store(p.to, p.value);
}
GPU_KERNEL product_kernel(GPU_PARAMETER ScalarProduct p) {
  if (gpu::thread_index() == 0) gpu::global_store(p.to, gpu::global_load_mutable(p.a) * gpu::global_load_mutable(p.b));
}
GPU_KERNEL clip_kernel(GPU_PARAMETER ClipCoefficient p) {
  if (gpu::thread_index() != 0) return;
  const double norm = sqrt(gpu::global_load_mutable(p.sum)), ratio = p.max_norm / (norm + 1e-6);
  gpu::global_store(p.norm, norm);
  gpu::global_store(p.coefficient, p.max_norm <= 0 || ratio > 1 ? 1.0 : ratio);  // NaN passes
}

GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) count_valid_kernel(GPU_PARAMETER CountValid p) {
  double valid = 0;
  for (std::int64_t i = gpu::thread_index(); i < p.count; i += kElementwiseThreads)
    valid += gpu::global_load(p.label + i) >= 0;
  valid = team_sum(valid, kElementwiseThreads, gpu::shared_base());
  if (gpu::thread_index() == 0) gpu::global_store(p.to, valid);
}

GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) loss_sum_kernel(GPU_PARAMETER LossSum p) {
  double sum = 0;
  for (std::int64_t i = gpu::thread_index(); i < p.rows; i += kElementwiseThreads)
    sum += static_cast<double>(gpu::global_load(p.loss + i));
  sum = team_sum(sum, kElementwiseThreads, gpu::shared_base());
  if (gpu::thread_index() == 0)
    gpu::global_store(p.result, p.accumulate ? gpu::global_load_mutable(p.result) + sum : sum);
}

}  // namespace

void scalar_constant(const ScalarConstant& call, Stream stream) {
  gpu::launch(constant_kernel, dim3(1), 32, 0, call, native(stream));
}
void scalar_product(const ScalarProduct& call, Stream stream) {
  gpu::launch(product_kernel, dim3(1), 32, 0, call, native(stream));
}
void clip_coefficient(const ClipCoefficient& call, Stream stream) {
  gpu::launch(clip_kernel, dim3(1), 32, 0, call, native(stream));
}
void count_valid(const CountValid& call, Stream stream) {
  gpu::launch(count_valid_kernel, dim3(1), kElementwiseThreads, 256, call, native(stream));
}
void loss_sum(const LossSum& call, Stream stream) {
  gpu::launch(loss_sum_kernel, dim3(1), kElementwiseThreads, 256, call, native(stream));
}

}  // namespace longhaul::cuda
