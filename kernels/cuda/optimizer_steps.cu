// The steps of optimizers over many tensors at once, with scalars that the device holds: the formulas of kernels/cpu,
// in their order. Moments are float32 or bfloat16, rounded after the step; new parameters may be copied in bfloat16.
#include <cmath>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/table.cuh"

namespace longhaul::cuda {
namespace {

constexpr std::uint32_t kScalars = kTableShared;  // where in shared memory a block's scalars lie

struct Scalars {
  float coefficient, rate, decay, root;
};

/// What float64 arithmetic makes of a step's scalars, once a block.
template <OptimizerRule rule>
GPU_DEVICE float4 scalars_of(const OptimizerStep& p, const OptimizerTensor& t) {
  const double rate = rule == OptimizerRule::muon_momentum ? 0 : gpu::global_load(p.learning_rate);
  const auto coefficient =
      rule == OptimizerRule::muon_step ? 1.0f : static_cast<float>(gpu::global_load(p.coefficient));
  if constexpr (rule == OptimizerRule::adamw) {
    const double step = gpu::global_load(p.step);
    return {coefficient, static_cast<float>(rate / (1 - pow(p.beta1, step))),
            static_cast<float>(1 - rate * t.weight_decay), static_cast<float>(sqrt(1 - pow(p.beta2, step)))};
  } else if constexpr (rule == OptimizerRule::muon_step) {
    return {1, static_cast<float>(rate * t.scale), static_cast<float>(1 - rate * t.weight_decay), 0};
  } else {
    return {coefficient, static_cast<float>(rate), static_cast<float>(t.weight_decay), 0};
  }
}

template <OptimizerRule rule>
GPU_DEVICE void step_four(const OptimizerStep& p, const OptimizerTensor& t, const Scalars& s, std::int64_t at,
                          bool whole, int valid) {
  constexpr bool has_parameter = rule != OptimizerRule::muon_momentum, has_second = rule == OptimizerRule::adamw;
  const bool has_first = rule != OptimizerRule::muon_step && t.first_moment;
  const float beta1 = static_cast<float>(p.beta1), rest1 = static_cast<float>(1 - p.beta1),
              beta2 = static_cast<float>(p.beta2), rest2 = static_cast<float>(1 - p.beta2),
              epsilon = static_cast<float>(p.epsilon);
  float gradient[4], parameter[4] = {}, first[4] = {}, second[4] = {};
  load_four(gradient, t.gradient, t.gradient_type, at, whole, valid);
  if constexpr (has_parameter) load_four(parameter, t.parameter, Type::float32, at, whole, valid);
  if (has_first) load_four(first, t.first_moment, t.moment_type, at, whole, valid);
  if constexpr (has_second) load_four(second, t.second_moment, t.moment_type, at, whole, valid);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    float g = gradient[i] * s.coefficient;
    if constexpr (rule == OptimizerRule::adamw) {
      first[i] = beta1 * first[i] + rest1 * g;
      second[i] = beta2 * second[i] + rest2 * g * g;
      parameter[i] = parameter[i] * s.decay - s.rate * first[i] / (sqrtf(second[i]) / s.root + epsilon);
    } else if constexpr (rule == OptimizerRule::sgd) {
      g += s.decay * parameter[i];
      if (has_first) {
        first[i] = beta1 * first[i] + g;
        g = p.nesterov ? g + beta1 * first[i] : first[i];
      }
      parameter[i] -= s.rate * g;
    } else if constexpr (rule == OptimizerRule::muon_momentum) {
      first[i] = beta1 * first[i] + rest1 * g;
      parameter[i] = p.nesterov ? rest1 * g + beta1 * first[i] : first[i];
    } else {
      parameter[i] = parameter[i] * s.decay - s.rate * gradient[i];
    }
  }
  store_four(t.parameter, Type::float32, parameter, at, whole, valid);
  if (has_first) store_four(t.first_moment, t.moment_type, first, at, whole, valid);
  if constexpr (has_second) store_four(t.second_moment, t.moment_type, second, at, whole, valid);
  if (t.copy) store_four(t.copy, Type::bfloat16, parameter, at, whole, valid);
}

template <OptimizerRule rule>
GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) step_kernel(GPU_PARAMETER OptimizerStep p) {
  const std::uint32_t shared = gpu::shared_base();
  std::int64_t blocks = p.blocks;
  OptimizerTensor t = p.one;
  if (p.tensor) {
    const int row = row_of_block(p.tensor, p.tensors, shared);
    t = load_row(p.tensor + row);
    if (row + 1 < p.tensors) blocks = gpu::global_load(&p.tensor[row + 1].first_block);
    blocks -= t.first_block;
  }
  if (gpu::thread_index() == 0) gpu::shared_store(shared + kScalars, scalars_of<rule>(p, t));
  if (!GPU_FAULT(optimizer_scalars_barrier)) gpu::block_sync();
  const float4 four = gpu::shared_load<float4>(shared + kScalars);
  const Scalars scalars{four.x, four.y, four.z, four.w};
  const std::uint64_t places = reinterpret_cast<std::uintptr_t>(t.parameter) |
                               reinterpret_cast<std::uintptr_t>(t.first_moment) |
                               reinterpret_cast<std::uintptr_t>(t.second_moment) |
                               reinterpret_cast<std::uintptr_t>(t.gradient) | reinterpret_cast<std::uintptr_t>(t.copy);
  const bool aligned = places % 16 == 0;
  const std::int64_t stride = blocks * kElementwiseThreads * 4;
  for (std::int64_t at = ((gpu::block_x() - t.first_block) * kElementwiseThreads + gpu::thread_index()) * 4;
       at < t.count; at += stride)
    step_four<rule>(p, t, scalars, at, aligned && at + 4 <= t.count,
                    static_cast<int>(t.count - at < 4 ? t.count - at : 4));
}

std::int64_t blocks_of(const OptimizerTensor& tensor) {
  return elementwise_blocks(divide_up(tensor.count, std::int64_t{4}));
}

}  // namespace

std::int64_t optimizer_blocks(OptimizerTensor* tensors, std::int32_t count) {
  return number_blocks(tensors, count, blocks_of);
}

void optimizer_step(const OptimizerStep& call, Stream stream) {
  const OptimizerRule rule = call.rule;
  require(call.coefficient || rule == OptimizerRule::muon_step, "optimizer_step: the coefficient is null");
  require(call.learning_rate || rule == OptimizerRule::muon_momentum, "optimizer_step: the learning rate is null");
  require(call.step || rule != OptimizerRule::adamw, "optimizer_step: the step's number is null");
  OptimizerStep p = call;
  if (!call.tensor) {
    p.tensors = 1, p.one.first_block = 0, p.blocks = blocks_of(call.one);
    if (call.one.count == 0) return;
  }
  require(p.blocks >= 0 && p.blocks < std::int64_t{1} << 31, "optimizer_step: more blocks than a launch has");
  if (p.blocks == 0) return;
  const auto kernel = rule == OptimizerRule::adamw           ? step_kernel<OptimizerRule::adamw>
                      : rule == OptimizerRule::sgd           ? step_kernel<OptimizerRule::sgd>
                      : rule == OptimizerRule::muon_momentum ? step_kernel<OptimizerRule::muon_momentum>
                                                             : step_kernel<OptimizerRule::muon_step>;
  gpu::launch(kernel, dim3(static_cast<unsigned>(p.blocks)), kElementwiseThreads, kScalars + 16, p, native(stream));
}

}  // namespace longhaul::cuda
