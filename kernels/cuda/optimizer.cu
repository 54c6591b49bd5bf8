// AdamW with fp32 master parameters and scalars of the host, and the sums of squares behind gradient clipping.
#include <cmath>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/table.cuh"

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

struct SquareParameters {
  const void* x;
  std::int64_t count;
  double *partial, *result;
  std::int32_t partials, accumulate;
};
/// This block's share of a tensor's sum, block `block` of `blocks`; thread 0 has it.
template <typename T>
GPU_DEVICE double square_share(const void* x, std::int64_t count, std::int64_t block, std::int64_t blocks,
                               std::uint32_t shared) {
  constexpr int W = kWidth<T>;
  double sum = 0;
  const std::int64_t stride = blocks * kElementwiseThreads * W;
  for (std::int64_t at = (block * kElementwiseThreads + gpu::thread_index()) * W; at < count; at += stride) {
    float values[W], part = 0;
    load_vector<T>(values, static_cast<const T*>(x) + at, count - at);
#pragma unroll
    for (int i = 0; i < W; i++) part += values[i] * values[i];
    sum += part;
  }
  return team_sum(sum, kElementwiseThreads, shared);
}
GPU_DEVICE double sum_of_partials(const double* partial, int partials, std::uint32_t shared) {
  double sum = 0;
  for (int i = gpu::thread_index(); i < partials; i += kElementwiseThreads) sum += gpu::global_load(partial + i);
  return team_sum(sum, kElementwiseThreads, shared);
}
template <typename T>
GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) square_partials(GPU_PARAMETER SquareParameters p) {
  const double sum = square_share<T>(p.x, p.count, gpu::block_x(), gpu::grid_x(), gpu::shared_base());
  if (gpu::thread_index() == 0) gpu::global_store(p.partial + gpu::block_x(), sum);
}
GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) square_total(GPU_PARAMETER SquareParameters p) {
  const double sum = sum_of_partials(p.partial, p.partials, gpu::shared_base());
  if (gpu::thread_index() == 0)
    gpu::global_store(p.result, p.accumulate ? gpu::global_load_mutable(p.result) + sum : sum);
}

// Many tensors: the partials of all, then their totals, a block a tensor.
GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) squares_partials(GPU_PARAMETER SquaresTable p) {
  const std::uint32_t shared = gpu::shared_base();
  const SquaresTensor t = load_row(p.tensor + row_of_block(p.tensor, p.tensors, shared));
  const std::int64_t block = gpu::block_x() - t.first_block;
  const double sum = t.type == Type::bfloat16
                         ? square_share<gpu::bfloat16>(t.x, t.count, block, t.blocks, shared + kTableShared)
                         : square_share<float>(t.x, t.count, block, t.blocks, shared + kTableShared);
  if (gpu::thread_index() == 0) gpu::global_store(p.workspace + gpu::block_x(), sum);
}
GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) squares_totals(GPU_PARAMETER SquaresTable p) {
  const SquaresTensor t = load_row(p.tensor + gpu::block_x());
  const int partials = GPU_FAULT(squares_partial_lost) && t.blocks > 1 ? t.blocks - 1 : t.blocks;
  const double sum = sum_of_partials(p.workspace + t.first_block, partials, gpu::shared_base());
  if (gpu::thread_index() == 0) gpu::global_store(t.result, sum);
}

int square_blocks(Type type, std::int64_t count) {
  const unsigned blocks = elementwise_blocks(count / (type == Type::bfloat16 ? 8 : 4));
  return blocks < kPartials ? static_cast<int>(blocks) : kPartials;
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

std::size_t sum_of_squares_workspace() {
  return kPartials * sizeof(double);
}

void sum_of_squares(const void* x, Type type, std::int64_t count, std::int32_t accumulate, double* result,
                    void* workspace, Stream stream) {
  require(workspace && result, "sum_of_squares: workspace or result is null");
  const int partials = square_blocks(type, count);
  const SquareParameters p{x, count, static_cast<double*>(workspace), result, partials, accumulate};
  gpu::launch(type == Type::bfloat16 ? square_partials<gpu::bfloat16> : square_partials<float>,
              dim3(static_cast<unsigned>(partials)), kElementwiseThreads, 256, p, native(stream));
  gpu::launch(square_total, dim3(1), kElementwiseThreads, 256, p, native(stream));
}

std::int64_t squares_blocks(SquaresTensor* tensors, std::int32_t count) {
  return number_blocks(tensors, count, [](SquaresTensor& t) { return t.blocks = square_blocks(t.type, t.count); });
}

void sums_of_squares(const SquaresTable& call, Stream stream) {
  require(call.tensor && call.workspace, "sums_of_squares: the table or the workspace is null");
  require(call.blocks >= call.tensors && call.blocks < std::int64_t{1} << 31,
          "sums_of_squares: blocks are not those of squares_blocks");
  if (call.tensors == 0) return;
  gpu::launch(squares_partials, dim3(static_cast<unsigned>(call.blocks)), kElementwiseThreads, kTableShared + 256, call,
              native(stream));
  gpu::launch(squares_totals, dim3(static_cast<unsigned>(call.tensors)), kElementwiseThreads, 256, call,
              native(stream));
}

}  // namespace longhaul::cuda
