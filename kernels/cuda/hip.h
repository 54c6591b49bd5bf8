// The primitives for AMD GPUs, by clang's HIP. Products of matrices, their loads and asynchronous copies are those of
// waves.h, over shuffles and plain loads: no matrix unit is used. Compiled, never run: docs/portability.md.
#pragma once
#include <hip/hip_runtime.h>

#include <cstdint>
#include <cstring>

#define GPU_KERNEL static __global__ void
#define GPU_DEVICE __device__ __forceinline__
#define GPU_HOST_DEVICE __host__ __device__ __forceinline__
#define GPU_PARAMETER const
#define GPU_LAUNCH_BOUNDS(threads, blocks) __launch_bounds__(threads)
#define GPU_UNROLL _Pragma("unroll")
#define GPU_FAULT(number) false

namespace longhaul::gpu {

using Stream = hipStream_t;

/// Storage; rounds to nearest, ties to even.
struct bfloat16 {
  std::uint16_t bits;
  bfloat16() = default;
  GPU_HOST_DEVICE explicit bfloat16(float value) {
    std::uint32_t word;
    memcpy(&word, &value, 4);
    bits = value != value ? 0x7fff : static_cast<std::uint16_t>((word + 0x7fff + ((word >> 16) & 1)) >> 16);
  }
  GPU_HOST_DEVICE operator float() const {
    const std::uint32_t word = static_cast<std::uint32_t>(bits) << 16;
    float value;
    memcpy(&value, &word, 4);
    return value;
  }
};

GPU_DEVICE int thread_index() {
  return static_cast<int>(threadIdx.x);
}
GPU_DEVICE int block_threads() {
  return static_cast<int>(blockDim.x);
}
GPU_DEVICE int block_x() {
  return static_cast<int>(blockIdx.x);
}
GPU_DEVICE int block_y() {
  return static_cast<int>(blockIdx.y);
}
GPU_DEVICE int block_z() {
  return static_cast<int>(blockIdx.z);
}
GPU_DEVICE int grid_x() {
  return static_cast<int>(gridDim.x);
}

// ---- memory. Shared addresses are offsets in LDS.
template <typename T>
using Shared = __attribute__((address_space(3))) T;
GPU_DEVICE std::uint32_t shared_base() {
  extern __shared__ __attribute__((aligned(1024))) unsigned char dynamic_shared[];
  return static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>((Shared<unsigned char>*)dynamic_shared));
}
template <typename T>
GPU_DEVICE T shared_load(std::uint32_t address) {
  T value;
  std::uint32_t* const words = reinterpret_cast<std::uint32_t*>(&value);
  for (unsigned i = 0; i < sizeof(T) / 4; i++)
    words[i] = ((Shared<const std::uint32_t>*)static_cast<std::uintptr_t>(address))[i];
  return value;
}
template <typename T>
GPU_DEVICE void shared_store(std::uint32_t address, T value) {
  const std::uint32_t* const words = reinterpret_cast<const std::uint32_t*>(&value);
  for (unsigned i = 0; i < sizeof(T) / 4; i++)
    ((Shared<std::uint32_t>*)static_cast<std::uintptr_t>(address))[i] = words[i];
}
template <typename T>
GPU_DEVICE T global_load(const T* pointer) {
  return *pointer;
}
template <typename T>
GPU_DEVICE T global_load_mutable(const T* pointer) {
  return *pointer;
}
template <typename T>
GPU_DEVICE void global_store(T* pointer, T value) {
  *pointer = value;
}

// ---- barriers, and waves of 64 lanes, or of 32 on RDNA
GPU_DEVICE void block_sync() {
  __syncthreads();
}
/// Lanes go in step; the compiler must not move memory accesses over it either.
GPU_DEVICE void warp_sync() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "wavefront");
  __builtin_amdgcn_wave_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "wavefront");
}
GPU_DEVICE int wave_lane() {
  return static_cast<int>(__lane_id());
}
template <typename T>
GPU_DEVICE T wave_shuffle(T value, int source) {
  return __shfl(value, source, warpSize);
}
GPU_DEVICE std::uint64_t wave_ballot(bool vote) {
  return __ballot(vote);
}

// ---- arithmetic
GPU_DEVICE float exp2_fast(float x) {
  return exp2f(x);
}
GPU_DEVICE float log2_fast(float x) {
  return __log2f(x);
}
GPU_DEVICE float maximum(float a, float b) {
  return fmaxf(a, b);
}
GPU_DEVICE int minimum(int a, int b) {
  return a < b ? a : b;
}
GPU_DEVICE int maximum(int a, int b) {
  return a > b ? a : b;
}
GPU_DEVICE float inverse_square_root(float x) {
  return rsqrtf(x);
}
GPU_DEVICE int first_bit(std::uint32_t bits) {
  return __ffs(static_cast<int>(bits)) - 1;
}
GPU_DEVICE int count_bits(std::uint32_t bits) {
  return __popc(bits);
}
GPU_DEVICE std::uint32_t pack_bfloat16(float low, float high) {
  return bfloat16(low).bits | static_cast<std::uint32_t>(bfloat16(high).bits) << 16;
}
GPU_DEVICE float2 unpack_bfloat16(std::uint32_t word) {
  return {__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u)};
}

}  // namespace longhaul::gpu

#include "kernels/cuda/waves.h"

namespace longhaul::gpu {

// ---- warps of 32 lanes, halves of waves of 64, and what is made of them
template <typename T>
GPU_DEVICE T shuffle_xor(T value, int mask) {
  return by_lanes::shuffle_xor(value, mask);
}
template <typename T>
GPU_DEVICE T shuffle(T value, int source) {
  return by_lanes::shuffle(value, source);
}
GPU_DEVICE std::uint32_t ballot(bool vote) {
  return by_lanes::ballot(vote);
}
GPU_DEVICE void copy_async_16(std::uint32_t destination, const void* source, bool valid) {
  by_lanes::copy_16(destination, source, valid);
}
GPU_DEVICE void copy_async_commit() {}
template <int N>
GPU_DEVICE void copy_async_wait() {}
GPU_DEVICE void ldmatrix_x4(std::uint32_t (&r)[4], std::uint32_t address) {
  by_lanes::ldmatrix_x4(r, address);
}
GPU_DEVICE void ldmatrix_x4_transposed(std::uint32_t (&r)[4], std::uint32_t address) {
  by_lanes::ldmatrix_x4_transposed(r, address);
}
GPU_DEVICE void mma_16x8x16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  by_lanes::mma_16x8x16(d, a, b0, b1);
}

// ---- between ranks: flags that other devices may write
GPU_DEVICE void signal_system(std::uint32_t* flag, std::uint32_t epoch) {
  __threadfence_system();
  __hip_atomic_store(flag, epoch, __ATOMIC_RELEASE, __HIP_MEMORY_SCOPE_SYSTEM);
}
GPU_DEVICE void await_system(const std::uint32_t* flag, std::uint32_t epoch, const std::uint32_t* give_up = nullptr) {
  std::uint32_t turn = 0, over = 0;
  while (static_cast<std::int32_t>(__hip_atomic_load(flag, __ATOMIC_ACQUIRE, __HIP_MEMORY_SCOPE_SYSTEM) - epoch) < 0 &&
         !over)
    if (give_up && ++turn % 1024 == 0) over = __hip_atomic_load(give_up, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_SYSTEM);
}

/// For the device's counters (api.cu).
void count_launch();
void report_launch_error(hipError_t error, const void* kernel, int threads, std::size_t shared_bytes);

template <typename P>
void launch(void (*kernel)(P), dim3 grid, int threads, std::size_t shared_bytes, P parameters,
            Stream stream = nullptr) {
  count_launch();
  void* arguments[] = {&parameters};
  const hipError_t error = hipLaunchKernel(reinterpret_cast<const void*>(kernel), grid,
                                           dim3(static_cast<unsigned>(threads)), arguments, shared_bytes, stream);
  if (error != hipSuccess) report_launch_error(error, reinterpret_cast<const void*>(kernel), threads, shared_bytes);
}

/// As ptx.h has it.
template <typename P>
void load(void (*kernel)(P)) {
  hipFuncAttributes ignored;
  if (hipFuncGetAttributes(&ignored, reinterpret_cast<const void*>(kernel)) != hipSuccess) (void)hipGetLastError();
}

}  // namespace longhaul::gpu
