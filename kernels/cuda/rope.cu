// Rotary position embedding: the table of cosines and sines, made once a step, and the turning of heads, which can
// write its result packed for an all-to-all.
#include "kernels/cuda/generic.cuh"
#include "kernels/cuda/launch.h"

namespace longhaul::cuda {
namespace {

GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) rope_table_kernel(GPU_PARAMETER RopeTable p) {
  const int half = p.rotated / 2;
  for_each_vector<1>(p.tokens * half, [&](std::int64_t at, std::int64_t) {
    const std::int64_t token = at / half;
    const int i = static_cast<int>(at % half);
    // In double: at position 10^6 a float angle is off by 0.06.
    const double angle = gpu::global_load(p.position + token) * gpu::global_load(p.inverse_frequencies + i);
    double scale = p.scale;
    if (p.growth != 0)
      scale *= 1 + p.growth * log1p(static_cast<double>(gpu::global_load(p.position + token) / p.growth_length));
    float* row = p.table + token * p.rotated;
    gpu::global_store(row + i, static_cast<float>(scale * cos(angle)));
    gpu::global_store(row + half + i, static_cast<float>(scale * sin(angle)));
  });
}

// One item is a vector of the first half of a head's turned part with its partner, or a vector of the rest.
template <typename T>
GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) rope_kernel(GPU_PARAMETER Rope p) {
  constexpr int W = kWidth<T>;
  const int half = p.rotated / 2, turned = half / W, items = turned + (p.head_dim - p.rotated) / W;
  const int rank_heads = p.heads / p.ranks;
  const std::int64_t tokens = static_cast<std::int64_t>(p.batch) * p.rows;
  for_each_vector<1>(tokens * p.heads * items, [&](std::int64_t at, std::int64_t) {
    const std::uint32_t n = static_cast<std::uint32_t>(at);  // 64-bit division costs as much as the memory access
    const int item = static_cast<int>(n % items), head = static_cast<int>(n / items % p.heads);
    const std::int64_t token = n / items / p.heads;
    const T* x = static_cast<const T*>(p.x) + (token * p.heads + head) * p.head_dim;
    T* y = static_cast<T*>(p.y) + ((head / rank_heads * tokens + token) * rank_heads + head % rank_heads) * p.head_dim;
    if (item >= turned) {
      const int d = p.rotated + (item - turned) * W;
      gpu::global_store(reinterpret_cast<uint4*>(y + d),
                        gpu::global_load_mutable(reinterpret_cast<const uint4*>(x + d)));
      return;
    }
    const int d = item * W;
    float first[W], second[W], cosine[W], sine[W], y_first[W], y_second[W];
    load_vector<T>(first, x + d);
    load_vector<T>(second, x + half + d);
    const float* table = p.table + token * p.rotated + d;
#pragma unroll
    for (int i = 0; i < W; i += 4) {
      const float4 c = gpu::global_load(reinterpret_cast<const float4*>(table + i));
      const float4 s = gpu::global_load(reinterpret_cast<const float4*>(table + half + i));
      cosine[i] = c.x, cosine[i + 1] = c.y, cosine[i + 2] = c.z, cosine[i + 3] = c.w;
      sine[i] = s.x, sine[i + 1] = s.y, sine[i + 2] = s.z, sine[i + 3] = s.w;
    }
#pragma unroll
    for (int i = 0; i < W; i++) {
      const float turn = p.inverse ? -sine[i] : sine[i];
      y_first[i] = first[i] * cosine[i] - second[i] * turn;
      y_second[i] = second[i] * cosine[i] + first[i] * turn;
    }
    store_vector<T>(y + d, y_first);
    store_vector<T>(y + half + d, y_second);
  });
}

// Any sizes: one pair a thread, or one element of the rest.
GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) rope_pairs_kernel(GPU_PARAMETER Rope p) {
  const int half = p.rotated / 2, items = half + p.head_dim - p.rotated, rank_heads = p.heads / p.ranks;
  const std::int64_t tokens = static_cast<std::int64_t>(p.batch) * p.rows;
  for_each_element(tokens * p.heads * items, [&](std::int64_t at) {
    const int item = static_cast<int>(at % items), head = static_cast<int>(at / items % p.heads);
    const std::int64_t token = at / items / p.heads, from = (token * p.heads + head) * p.head_dim,
                       to = ((head / rank_heads * tokens + token) * rank_heads + head % rank_heads) * p.head_dim;
    if (item >= half) {
      const int d = p.rotated + item - half;
      return store_element(p.y, p.type, to + d, load_element(p.x, p.type, from + d));
    }
    const float first = load_element(p.x, p.type, from + item), second = load_element(p.x, p.type, from + half + item);
    const float cosine = gpu::global_load(p.table + token * p.rotated + item);
    const float sine = gpu::global_load(p.table + token * p.rotated + half + item), turn = p.inverse ? -sine : sine;
    store_element(p.y, p.type, to + item, first * cosine - second * turn);
    store_element(p.y, p.type, to + half + item, second * cosine + first * turn);
  });
}

}  // namespace

void rope_table(const RopeTable& call, Stream stream) {
  require(call.rotated > 0 && call.rotated % 2 == 0, "rope_table: rotated must be even and positive");
  gpu::launch(rope_table_kernel, dim3(elementwise_blocks(call.tokens * call.rotated / 2)), kElementwiseThreads, 0, call,
              native(stream));
}

void rope(const Rope& call, Stream stream) {
  const int width = call.type == Type::bfloat16 ? 8 : 4;
  require(call.rotated > 0 && call.rotated <= call.head_dim && call.rotated % 2 == 0,
          "rope: rotated must be even and up to head_dim, not " + std::to_string(call.rotated));
  require(call.ranks >= 1 && call.heads % call.ranks == 0, "rope: packing needs heads to be a multiple of ranks, got " +
                                                               std::to_string(call.heads) + " and " +
                                                               std::to_string(call.ranks));
  require(call.ranks == 1 || call.x != call.y, "rope: a packed result cannot be in place");
  const std::int64_t items = static_cast<std::int64_t>(call.batch) * call.rows * call.heads *
                             (call.rotated / 2 / width + (call.head_dim - call.rotated) / width);
  if (call.rotated % (2 * width) || call.head_dim % width || !aligned(call.x) || !aligned(call.y) ||
      items > std::int64_t{0xffffffff}) {  // whose numbers have 32 bits
    const std::int64_t pairs = static_cast<std::int64_t>(call.batch) * call.rows * call.heads * call.head_dim;
    if (pairs)
      gpu::launch(rope_pairs_kernel, dim3(elementwise_blocks(pairs)), kElementwiseThreads, 0, call, native(stream));
    return;
  }
  if (items == 0) return;
  gpu::launch(call.type == Type::bfloat16 ? rope_kernel<gpu::bfloat16> : rope_kernel<float>,
              dim3(elementwise_blocks(items)), kElementwiseThreads, 0, call, native(stream));
}

}  // namespace longhaul::cuda
