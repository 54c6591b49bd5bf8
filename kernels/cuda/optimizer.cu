// AdamW with fp32 master parameters, and the sum of squares behind gradient clipping.
#include <cmath>

#include "kernels/cuda/generic.cuh"
#include "kernels/cuda/launch.h"

namespace longhaul::cuda {
namespace {

constexpr int kPartials = 512;  // blocks of a sum: a constant, so that its order never changes

struct AdamWParameters {
  AdamW call;
  float step_size, inverse_correction;  // learning_rate / (1 - beta1^step), 1 / sqrt(1 - beta2^step)
};
template <typename G>
GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) adamw_kernel(GPU_PARAMETER AdamWParameters p) {
  const AdamW& a = p.call;
  const float scale = a.gradient_scale ? gpu::global_load(a.gradient_scale) : 1.0f;
  for_each_vector<8>(a.count, [&](std::int64_t at, std::int64_t valid) {
    float gradient[8], rounded[8];
    if constexpr (sizeof(G) == 2) {
      load_vector<G>(gradient, static_cast<const G*>(a.gradient) + at, valid);
    } else {
      float low[4], high[4];
      load_vector<float>(low, static_cast<const float*>(a.gradient) + at, valid);
      load_vector<float>(high, static_cast<const float*>(a.gradient) + at + 4, valid - 4);
#pragma unroll
      for (int i = 0; i < 4; i++) gradient[i] = low[i], gradient[i + 4] = high[i];
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const std::int64_t from = at + 4 * half, rest = valid - 4 * half;
      float parameter[4], first[4], second[4];
      load_vector<float>(parameter, a.parameter + from, rest);
      load_vector<float>(first, a.first_moment + from, rest);
      load_vector<float>(second, a.second_moment + from, rest);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float g = scale * gradient[4 * half + i];
        first[i] = a.beta1 * first[i] + (1 - a.beta1) * g;
        second[i] = a.beta2 * second[i] + (1 - a.beta2) * g * g;
        parameter[i] = parameter[i] * (1 - a.learning_rate * a.weight_decay) -
                       p.step_size * first[i] / (sqrtf(second[i]) * p.inverse_correction + a.epsilon);
        rounded[4 * half + i] = parameter[i];
      }
      store_vector<float>(a.parameter + from, parameter, rest);
      store_vector<float>(a.first_moment + from, first, rest);
      store_vector<float>(a.second_moment + from, second, rest);
    }
    if (a.parameter_bfloat16)
      store_vector<gpu::bfloat16>(static_cast<gpu::bfloat16*>(a.parameter_bfloat16) + at, rounded, valid);
  });
}

// With the scalars that the device holds: the formula of kernels/cpu, in its order.
GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) adamw_step_kernel(GPU_PARAMETER AdamWStep p) {
  const std::uint32_t shared = gpu::shared_base();
  if (gpu::thread_index() == 0) {
    const double rate = gpu::global_load(p.learning_rate), step = gpu::global_load(p.step);
    const float decay = static_cast<float>(1 - rate * p.weight_decay);
    const float size = static_cast<float>(rate / (1 - pow(p.beta1, step)));
    const float root = static_cast<float>(sqrt(1 - pow(p.beta2, step)));
    gpu::shared_store(shared, float4{decay, size, root, static_cast<float>(gpu::global_load(p.coefficient))});
  }
  gpu::block_sync();
  const float4 scalars = gpu::shared_load<float4>(shared);
  const float beta1 = static_cast<float>(p.beta1), beta2 = static_cast<float>(p.beta2),
              rest1 = static_cast<float>(1 - p.beta1), rest2 = static_cast<float>(1 - p.beta2),
              epsilon = static_cast<float>(p.epsilon);
  for_each_element(p.count, [&](std::int64_t i) {
    const float g = load_element(p.gradient, p.gradient_type, i) * scalars.w;
    const float first = beta1 * gpu::global_load_mutable(p.first_moment + i) + rest1 * g;
    const float second = beta2 * gpu::global_load_mutable(p.second_moment + i) + rest2 * g * g;
    const float denominator = sqrtf(second) / scalars.z + epsilon;
    gpu::global_store(p.first_moment + i, first);
    gpu::global_store(p.second_moment + i, second);
    gpu::global_store(p.parameter + i,
                      gpu::global_load_mutable(p.parameter + i) * scalars.x - scalars.y * first / denominator);
  });
}

struct SquareParameters {
  const void* x;
  std::int64_t count;
  double *partial, *result;
  std::int32_t partials, accumulate;
};
template <typename T>
GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) square_partials(GPU_PARAMETER SquareParameters p) {
  constexpr int W = kWidth<T>;
  double sum = 0;
  for_each_vector<W>(p.count, [&](std::int64_t at, std::int64_t valid) {
    float x[W], part = 0;
    load_vector<T>(x, static_cast<const T*>(p.x) + at, valid);
#pragma unroll
    for (int i = 0; i < W; i++) part += x[i] * x[i];
    sum += part;
  });
  sum = team_sum(sum, kElementwiseThreads, gpu::shared_base());
  if (gpu::thread_index() == 0) gpu::global_store(p.partial + gpu::block_x(), sum);
}
GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) square_total(GPU_PARAMETER SquareParameters p) {
  double sum = 0;
  for (int i = gpu::thread_index(); i < p.partials; i += kElementwiseThreads) sum += gpu::global_load(p.partial + i);
  sum = team_sum(sum, kElementwiseThreads, gpu::shared_base());
  if (gpu::thread_index() == 0)
    gpu::global_store(p.result, p.accumulate ? gpu::global_load_mutable(p.result) + sum : sum);
}

}  // namespace

void adamw(const AdamW& call, Stream stream) {
  require(call.step >= 1, "adamw: steps are counted from 1");
  if (call.count == 0) return;
  const double step = static_cast<double>(call.step);
  const AdamWParameters p{
      call, static_cast<float>(call.learning_rate / (1 - std::pow(static_cast<double>(call.beta1), step))),
      static_cast<float>(1 / std::sqrt(1 - std::pow(static_cast<double>(call.beta2), step)))};
  gpu::launch(call.gradient_type == Type::bfloat16 ? adamw_kernel<gpu::bfloat16> : adamw_kernel<float>,
              dim3(elementwise_blocks(call.count / 8)), kElementwiseThreads, 0, p, native(stream));
}

void adamw_step(const AdamWStep& call, Stream stream) {
  require(call.coefficient && call.learning_rate && call.step, "adamw_step: a scalar is null");
  if (call.count == 0) return;
  gpu::launch(adamw_step_kernel, dim3(elementwise_blocks(call.count)), kElementwiseThreads, 128, call, native(stream));
}

std::size_t sum_of_squares_workspace() {
  return kPartials * sizeof(double);
}

void sum_of_squares(const void* x, Type type, std::int64_t count, std::int32_t accumulate, double* result,
                    void* workspace, Stream stream) {
  require(workspace && result, "sum_of_squares: workspace or result is null");
  const unsigned blocks = elementwise_blocks(count / (type == Type::bfloat16 ? 8 : 4));
  const int partials = blocks < kPartials ? static_cast<int>(blocks) : kPartials;
  const SquareParameters p{x, count, static_cast<double*>(workspace), result, partials, accumulate};
  gpu::launch(type == Type::bfloat16 ? square_partials<gpu::bfloat16> : square_partials<float>,
              dim3(static_cast<unsigned>(partials)), kElementwiseThreads, 256, p, native(stream));
  gpu::launch(square_total, dim3(1), kElementwiseThreads, 256, p, native(stream));
}

}  // namespace longhaul::cuda
