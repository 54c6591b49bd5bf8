// What the memory-bound kernels share: 16-byte vectors of bf16 or fp32, sums over a team of threads, launch sizes.
#pragma once
#include "kernels/cuda/gpu.h"

namespace longhaul::cuda {

/// Elements of T in 16 bytes.
template <typename T>
constexpr int kWidth = 16 / sizeof(T);

template <typename T>
GPU_DEVICE void unpack(uint4 packet, float (&x)[kWidth<T>]) {
  const std::uint32_t words[4] = {packet.x, packet.y, packet.z, packet.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if constexpr (sizeof(T) == 2) {
      const float2 pair = gpu::unpack_bfloat16(words[i]);
      x[2 * i] = pair.x, x[2 * i + 1] = pair.y;
    } else {
      union {
        std::uint32_t word;
        float value;
      } u{words[i]};
      x[i] = u.value;
    }
  }
}
template <typename T>
GPU_DEVICE uint4 pack(const float (&x)[kWidth<T>]) {
  std::uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if constexpr (sizeof(T) == 2) {
      words[i] = gpu::pack_bfloat16(x[2 * i], x[2 * i + 1]);
    } else {
      union {
        float value;
        std::uint32_t word;
      } u{x[i]};
      words[i] = u.word;
    }
  }
  return uint4{words[0], words[1], words[2], words[3]};
}

/// `valid` of kWidth elements; the others read as 0 and are not written. `from` is 16-byte aligned. Memory may be
/// written by the same launch (in place), so nothing here uses the read-only path.
template <typename T>
GPU_DEVICE void load_vector(float (&x)[kWidth<T>], const T* from, std::int64_t valid = kWidth<T>) {
  if (valid >= kWidth<T>) {
    unpack<T>(gpu::global_load_mutable(reinterpret_cast<const uint4*>(from)), x);
  } else {
#pragma unroll
    for (int i = 0; i < kWidth<T>; i++)
      x[i] = i < valid ? static_cast<float>(gpu::global_load_mutable(from + i)) : 0.0f;
  }
}
template <typename T>
GPU_DEVICE void store_vector(T* to, const float (&x)[kWidth<T>], std::int64_t valid = kWidth<T>) {
  if (valid >= kWidth<T>) {
    gpu::global_store(reinterpret_cast<uint4*>(to), pack<T>(x));
  } else {
#pragma unroll
    for (int i = 0; i < kWidth<T>; i++)
      if (i < valid) gpu::global_store(to + i, T(x[i]));
  }
}

/// Sum over the `team` threads (a power of two) that share a row; a team of more than a warp is the whole block. The
/// order is fixed. `scratch` has room for 32 values of T in shared memory.
template <typename T>
GPU_DEVICE T team_sum(T value, int team, std::uint32_t scratch) {
  for (int m = gpu::minimum(team, 32) / 2; m; m >>= 1) value += gpu::shuffle_xor(value, m);
  if (team <= 32) return value;
  if ((gpu::thread_index() & 31) == 0)
    gpu::shared_store(scratch + gpu::thread_index() / 32 * static_cast<std::uint32_t>(sizeof(T)), value);
  gpu::block_sync();
  T total = 0;
  for (int warp = 0; warp < team / 32; warp++)
    total += gpu::shared_load<T>(scratch + warp * static_cast<std::uint32_t>(sizeof(T)));
  if (!GPU_FAULT(team_sum_barrier)) gpu::block_sync();  // the scratch may be used again
  return total;
}

constexpr int kElementwiseThreads = 256;
/// Blocks for a grid-stride loop over `vectors` vectors: enough to fill any GPU, few enough to start cheaply.
inline unsigned elementwise_blocks(std::int64_t vectors) {
  const std::int64_t blocks = (vectors + kElementwiseThreads - 1) / kElementwiseThreads;
  return static_cast<unsigned>(blocks < 1 ? 1 : blocks > 4096 ? 4096 : blocks);
}
/// This thread's vectors of a grid-stride loop: body(first element, valid elements).
template <int WIDTH, typename Body>
GPU_DEVICE void for_each_vector(std::int64_t count, Body body) {
  const std::int64_t stride = static_cast<std::int64_t>(gpu::grid_x()) * gpu::block_threads() * WIDTH;
  for (std::int64_t at =
           (static_cast<std::int64_t>(gpu::block_x()) * gpu::block_threads() + gpu::thread_index()) * WIDTH;
       at < count; at += stride)
    body(at, count - at);
}

}  // namespace longhaul::cuda
