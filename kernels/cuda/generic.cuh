// What the generic kernels share: one element of a type that is known at run time, grid-stride loops.
#pragma once
#include "kernels/cuda/api.h"
#include "kernels/cuda/vectors.cuh"

namespace longhaul::cuda {

constexpr float kLogarithmOf2E = 1.4426950408889634f;  // log2(e)

// Memory may be written by the same launch (in place), so nothing here uses the read-only path.
GPU_DEVICE float load_element(const void* from, Type type, std::int64_t i) {
  if (type == Type::bfloat16)
    return static_cast<float>(gpu::global_load_mutable(static_cast<const gpu::bfloat16*>(from) + i));
  return gpu::global_load_mutable(static_cast<const float*>(from) + i);
}
GPU_DEVICE void store_element(void* to, Type type, std::int64_t i, float value) {
  if (type == Type::bfloat16)
    gpu::global_store(static_cast<gpu::bfloat16*>(to) + i, gpu::bfloat16(value));
  else
    gpu::global_store(static_cast<float*>(to) + i, value);
}
/// Four at once when `whole`: i a multiple of four of a tensor aligned to four elements; else `valid` of them one by
/// one, zeros for the rest.
GPU_DEVICE void load_four(float (&x)[4], const void* from, Type type, std::int64_t i, bool whole, int valid) {
  if (!whole) {
    for (int e = 0; e < 4; e++) x[e] = e < valid ? load_element(from, type, i + e) : 0.0f;
  } else if (type == Type::bfloat16) {
    const uint2 packet =
        gpu::global_load_mutable(reinterpret_cast<const uint2*>(static_cast<const gpu::bfloat16*>(from) + i));
    const float2 low = gpu::unpack_bfloat16(packet.x), high = gpu::unpack_bfloat16(packet.y);
    x[0] = low.x, x[1] = low.y, x[2] = high.x, x[3] = high.y;
  } else {
    const float4 packet =
        gpu::global_load_mutable(reinterpret_cast<const float4*>(static_cast<const float*>(from) + i));
    x[0] = packet.x, x[1] = packet.y, x[2] = packet.z, x[3] = packet.w;
  }
}

/// The same the other way; what is not valid is not written.
GPU_DEVICE void store_four(void* to, Type type, const float (&x)[4], std::int64_t i, bool whole, int valid) {
  if (!whole) {
    for (int e = 0; e < 4; e++)
      if (e < valid) store_element(to, type, i + e, x[e]);
  } else if (type == Type::bfloat16) {
    gpu::global_store(reinterpret_cast<uint2*>(static_cast<gpu::bfloat16*>(to) + i),
                      uint2{gpu::pack_bfloat16(x[0], x[1]), gpu::pack_bfloat16(x[2], x[3])});
  } else {
    gpu::global_store(reinterpret_cast<float4*>(static_cast<float*>(to) + i), float4{x[0], x[1], x[2], x[3]});
  }
}

/// This thread's elements of a grid-stride loop: body(i).
template <typename Body>
GPU_DEVICE void for_each_element(std::int64_t count, Body body) {
  for_each_vector<1>(count, [&](std::int64_t at, std::int64_t) { body(at); });
}
/// Sum over a warp, in a fixed order; every lane has it.
template <typename T>
GPU_DEVICE T warp_sum(T value) {
  for (int m = 16; m; m >>= 1) value += gpu::shuffle_xor(value, m);
  return value;
}

}  // namespace longhaul::cuda
