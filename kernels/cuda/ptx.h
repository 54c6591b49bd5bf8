// Primitives in inline PTX that every architecture from sm_80 has. Shapes, layouts and meanings: tests/gpu_emulator.
#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#define GPU_KERNEL static __global__ void
#define GPU_DEVICE __device__ __forceinline__
#define GPU_HOST_DEVICE __host__ __device__ __forceinline__
#define GPU_PARAMETER const __grid_constant__
#define GPU_LAUNCH_BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)
// Planted defects exist only in the emulator's build.
#define GPU_FAULT(number) false

namespace longhaul::gpu {

using bfloat16 = __nv_bfloat16;
using Stream = cudaStream_t;

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
/// Shared address of the dynamic shared memory, 1024-byte aligned.
GPU_DEVICE std::uint32_t shared_base() {
  extern __shared__ __align__(1024) unsigned char dynamic_shared[];
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(dynamic_shared));
}

// ---- memory: 4, 8 or 16 bytes at a time in shared memory, any type in global memory
template <typename T>
GPU_DEVICE T shared_load(std::uint32_t address) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  union {
    T value;
    std::uint32_t word[sizeof(T) / 4];
  } x;
  if constexpr (sizeof(T) == 4) asm volatile("ld.shared.b32 %0, [%1];" : "=r"(x.word[0]) : "r"(address) : "memory");
  if constexpr (sizeof(T) == 8)
    asm volatile("ld.shared.v2.b32 {%0,%1}, [%2];" : "=r"(x.word[0]), "=r"(x.word[1]) : "r"(address) : "memory");
  if constexpr (sizeof(T) == 16)
    asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(x.word[0]), "=r"(x.word[1]), "=r"(x.word[2]), "=r"(x.word[3])
                 : "r"(address)
                 : "memory");
  return x.value;
}
template <typename T>
GPU_DEVICE void shared_store(std::uint32_t address, T value) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  union {
    T value;
    std::uint32_t word[sizeof(T) / 4];
  } x{value};
  if constexpr (sizeof(T) == 4) asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(x.word[0]) : "memory");
  if constexpr (sizeof(T) == 8)
    asm volatile("st.shared.v2.b32 [%0], {%1,%2};" ::"r"(address), "r"(x.word[0]), "r"(x.word[1]) : "memory");
  if constexpr (sizeof(T) == 16)
    asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(x.word[0]), "r"(x.word[1]), "r"(x.word[2]),
                 "r"(x.word[3])
                 : "memory");
}
/// For memory that nothing writes during the launch.
template <typename T>
GPU_DEVICE T global_load(const T* pointer) {
  return __ldg(pointer);
}
/// For memory that the launch also writes (in place, accumulation).
template <typename T>
GPU_DEVICE T global_load_mutable(const T* pointer) {
  return *pointer;
}
template <typename T>
GPU_DEVICE void global_store(T* pointer, T value) {
  *pointer = value;
}

// ---- barriers
GPU_DEVICE void block_sync() {
  __syncthreads();
}
GPU_DEVICE void named_barrier_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
GPU_DEVICE void named_barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
GPU_DEVICE void warp_sync() {
  __syncwarp();
}

// ---- cp.async: 16 bytes, zeros when not valid
GPU_DEVICE void copy_async_16(std::uint32_t destination, const void* source, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(destination), "l"(source), "r"(valid ? 16 : 0)
               : "memory");
}
GPU_DEVICE void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/// All but the newest N groups of this thread have landed.
template <int N>
GPU_DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// ---- matrices
GPU_DEVICE void ldmatrix_x4(std::uint32_t (&r)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
GPU_DEVICE void ldmatrix_x4_transposed(std::uint32_t (&r)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
/// d (16 x 8, fp32) += a (16 x 16, bf16) times b (16 x 8, bf16).
GPU_DEVICE void mma_16x8x16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---- warps: all 32 lanes take part
template <typename T>
GPU_DEVICE T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
template <typename T>
GPU_DEVICE T shuffle(T value, int source) {
  return __shfl_sync(0xffffffffu, value, source);
}
GPU_DEVICE std::uint32_t ballot(bool vote) {
  return __ballot_sync(0xffffffffu, vote);
}

// ---- arithmetic
GPU_DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
GPU_DEVICE float log2_fast(float x) {
  return __log2f(x);
}
GPU_DEVICE float maximum(float a, float b) {
  return fmaxf(a, b);
}
GPU_DEVICE int minimum(int a, int b) {
  return ::min(a, b);
}
GPU_DEVICE int maximum(int a, int b) {
  return ::max(a, b);
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
  std::uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
GPU_DEVICE float2 unpack_bfloat16(std::uint32_t word) {
  return {__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u)};
}

// ---- between ranks: flags that other devices may write
/// Makes all that this thread has seen written visible to every device, then sets the flag.
GPU_DEVICE void signal_system(std::uint32_t* flag, std::uint32_t epoch) {
  asm volatile("fence.acq_rel.sys;" ::: "memory");
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag), "r"(epoch) : "memory");
}
/// Until the flag has reached the epoch, or *give_up (which may be null) is not 0; epochs may wrap around.
GPU_DEVICE void await_system(const std::uint32_t* flag, std::uint32_t epoch, const std::uint32_t* give_up = nullptr) {
  std::uint32_t seen, turn = 0, over = 0;
  do {
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
    // Across the bus, so not every time.
    if (give_up && ++turn % 1024 == 0)
      asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(over) : "l"(give_up) : "memory");
  } while (static_cast<std::int32_t>(seen - epoch) < 0 && !over);
}

void report_launch_error(cudaError_t error, const void* kernel, int threads, std::size_t shared_bytes);
/// For the device's counters (api.cu).
void count_launch();

template <typename P>
void launch(void (*kernel)(P), dim3 grid, int threads, std::size_t shared_bytes, P parameters,
            Stream stream = nullptr) {
  cudaError_t error = cudaSuccess;
  count_launch();
  if (shared_bytes > 48 << 10)
    error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shared_bytes));
  void* arguments[] = {&parameters};
  if (error == cudaSuccess)
    error =
        cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, dim3(threads), arguments, shared_bytes, stream);
  if (error != cudaSuccess) report_launch_error(error, reinterpret_cast<const void*>(kernel), threads, shared_bytes);
}

/// Has the kernel's code on the thread's device from now on. Otherwise CUDA loads it with its first launch, for which
/// it may wait until the device is idle: for ever, where a kernel that runs there waits for the one to be loaded ("Lazy
/// Loading" in the programming guide). What is wrong with the device its first launch says.
template <typename P>
void load(void (*kernel)(P)) {
  cudaFuncAttributes ignored;
  if (cudaFuncGetAttributes(&ignored, reinterpret_cast<const void*>(kernel)) != cudaSuccess) (void)cudaGetLastError();
}

}  // namespace longhaul::gpu

#include "kernels/cuda/ptx_hopper.h"
