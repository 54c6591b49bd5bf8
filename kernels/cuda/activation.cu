// Pointwise activations, plain and gated (SwiGLU and its kin), forward and backward.
#include "kernels/cuda/launch.h"
#include "kernels/cuda/vectors.cuh"

namespace longhaul::cuda {
namespace {

struct ValueAndSlope {
  float value, slope;
};
GPU_DEVICE ValueAndSlope evaluate(Activation kind, float x) {
  switch (kind) {
    case Activation::silu: {
      const float sigmoid = 1 / (1 + gpu::exp2_fast(-1.4426950408889634f * x));
      return {x * sigmoid, sigmoid * (1 + x * (1 - sigmoid))};
    }
    case Activation::gelu: {
      const float cumulative = 0.5f * (1 + erff(0.7071067811865475f * x));
      return {x * cumulative, cumulative + x * 0.3989422804014327f * gpu::exp2_fast(-0.7213475204444817f * x * x)};
    }
    case Activation::gelu_tanh: {
      const float inner = 0.7978845608028654f * (x + 0.044715f * x * x * x), t = tanhf(inner);
      return {0.5f * x * (1 + t),
              0.5f * (1 + t) + 0.5f * x * (1 - t * t) * 0.7978845608028654f * (1 + 3 * 0.044715f * x * x)};
    }
    default:
      return {x > 0 ? x : 0, x > 0 ? 1.0f : 0.0f};
  }
}

template <typename T>
GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) activation_kernel(GPU_PARAMETER ElementwiseActivation p) {
  constexpr int W = kWidth<T>;
  for_each_vector<W>(p.count, [&](std::int64_t at, std::int64_t valid) {
    float gate[W], up[W];
    load_vector<T>(gate, static_cast<const T*>(p.gate) + at, valid);
    if (p.up) load_vector<T>(up, static_cast<const T*>(p.up) + at, valid);
#pragma unroll
    for (int i = 0; i < W; i++) {
      const float value = evaluate(p.activation, gate[i]).value;
      gate[i] = p.up ? value * up[i] : value;
    }
    store_vector<T>(static_cast<T*>(p.y) + at, gate, valid);
  });
}

template <typename T>
GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1)
    activation_gradient_kernel(GPU_PARAMETER ElementwiseActivationGradient p) {
  constexpr int W = kWidth<T>;
  for_each_vector<W>(p.count, [&](std::int64_t at, std::int64_t valid) {
    float gate[W], up[W], dy[W];
    load_vector<T>(gate, static_cast<const T*>(p.gate) + at, valid);
    load_vector<T>(dy, static_cast<const T*>(p.dy) + at, valid);
    if (p.up) load_vector<T>(up, static_cast<const T*>(p.up) + at, valid);
#pragma unroll
    for (int i = 0; i < W; i++) {
      const ValueAndSlope f = evaluate(p.activation, gate[i]);
      gate[i] = dy[i] * f.slope * (p.up ? up[i] : 1.0f);
      up[i] = dy[i] * f.value;
    }
    store_vector<T>(static_cast<T*>(p.dgate) + at, gate, valid);
    if (p.up) store_vector<T>(static_cast<T*>(p.dup) + at, up, valid);
  });
}

}  // namespace

void activation(const ElementwiseActivation& call, Stream stream) {
  require(call.count >= 0, "activation: count is negative");
  if (call.count == 0) return;
  const bool narrow = call.type == Type::bfloat16;
  gpu::launch(narrow ? activation_kernel<gpu::bfloat16> : activation_kernel<float>,
              dim3(elementwise_blocks(call.count / (narrow ? 8 : 4))), kElementwiseThreads, 0, call, native(stream));
}

void activation_gradient(const ElementwiseActivationGradient& call, Stream stream) {
  require(!call.up || call.dup, "activation_gradient: up without dup");
  if (call.count == 0) return;
  const bool narrow = call.type == Type::bfloat16;
  gpu::launch(narrow ? activation_gradient_kernel<gpu::bfloat16> : activation_gradient_kernel<float>,
              dim3(elementwise_blocks(call.count / (narrow ? 8 : 4))), kElementwiseThreads, 0, call, native(stream));
}

}  // namespace longhaul::cuda
