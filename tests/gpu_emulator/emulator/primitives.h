// The primitives of kernels/cuda/gpu.h, emulated: same names, same meaning. The last lane to arrive at a warp's
// collective does the work for all.
#pragma once
#include <algorithm>

#include "tests/gpu_emulator/emulator/core.h"
#include "tests/gpu_emulator/faults.h"
#include "tests/gpu_emulator/layouts.h"

#define GPU_KERNEL static void
#define GPU_DEVICE inline __attribute__((always_inline))
#define GPU_HOST_DEVICE inline
#define GPU_PARAMETER const
#define GPU_LAUNCH_BOUNDS(threads, blocks)
#define GPU_UNROLL
// A planted defect: on when the tests ask for it, never in the shipped library.
#define GPU_FAULT(number) (::longhaul::emulator::options.planted_fault == (number))

namespace longhaul::gpu {

using Stream = emulator::Stream*;

inline int thread_index() {
  return emulator::block->current;
}
inline int block_threads() {
  return emulator::block->threads;
}
inline int block_x() {
  return static_cast<int>(emulator::block->index.x);
}
inline int block_y() {
  return static_cast<int>(emulator::block->index.y);
}
inline int block_z() {
  return static_cast<int>(emulator::block->index.z);
}
inline int grid_x() {
  return static_cast<int>(emulator::block->grid.x);
}
inline std::uint32_t shared_base() {
  return emulator::kSharedBase;
}

// ---- memory
template <typename T>
inline T shared_load(std::uint32_t address, EMULATOR_SITE) {
  emulator::in_step(emulator::Stop::memory, site);
  const char* from = emulator::shared_at(address, sizeof(T), "shared load", site);
  emulator::check_read(address, sizeof(T), emulator::block->current, site, "shared load");
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
template <typename T>
inline void shared_store(std::uint32_t address, T value, EMULATOR_SITE) {
  emulator::in_step(emulator::Stop::memory, site);
  char* to = emulator::shared_at(address, sizeof(T), "shared store", site);
  emulator::check_write(address, sizeof(T), emulator::block->current, site, "shared store");
  std::memcpy(to, &value, sizeof value);
}
template <typename T>
inline T global_load(const T* pointer, EMULATOR_SITE) {
  emulator::in_step(emulator::Stop::memory, site);
  emulator::check_global(pointer, sizeof(T), "global load", site);
  emulator::check_global_stream(pointer, sizeof(T), false, site);
  return *pointer;
}
template <typename T>
inline T global_load_mutable(const T* pointer, EMULATOR_SITE) {
  return global_load(pointer, site);
}
template <typename T>
inline void global_store(T* pointer, T value, EMULATOR_SITE) {
  emulator::in_step(emulator::Stop::memory, site);
  emulator::check_global(pointer, sizeof(T), "global store", site);
  emulator::check_global_stream(pointer, sizeof(T), true, site);
  *pointer = value;
}

// ---- barriers
inline void block_sync(EMULATOR_SITE) {
  emulator::in_step(emulator::Stop::barrier, site);
  emulator::arrive(emulator::block->barriers[0], emulator::block->threads, true, "bar.sync 0", site);
}
inline void named_barrier_sync(int id, int threads, EMULATOR_SITE) {
  emulator::only_warps("bar.sync", site);
  emulator::arrive(emulator::block->barriers[id], threads, true, "bar.sync", site);
}
inline void named_barrier_arrive(int id, int threads, EMULATOR_SITE) {
  emulator::only_warps("bar.arrive", site);
  emulator::arrive(emulator::block->barriers[id], threads, false, "bar.arrive", site);
}
inline void warp_sync(EMULATOR_SITE) {
  if (emulator::block->lock_step) {  // nobody waits: the active lanes are in step
    emulator::stop_at(emulator::Stop::sync, site);
    emulator::join_active_lanes();
    return;
  }
  emulator::arrive(emulator::block->warp_barriers[emulator::block->current / 32], 32, true, "bar.warp.sync", site);
}

// ---- arithmetic
inline float bfloat16_of(std::uint32_t word, int half) {
  const std::uint32_t bits = half ? word & 0xffff0000u : word << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline float exp2_fast(float x) {
  return ::exp2f(x);
}
inline float log2_fast(float x) {
  return ::log2f(x);
}
inline float maximum(float a, float b) {
  return ::fmaxf(a, b);
}
inline int minimum(int a, int b) {
  return a < b ? a : b;
}
inline int maximum(int a, int b) {
  return a > b ? a : b;
}
inline float inverse_square_root(float x) {
  return 1.0f / ::sqrtf(x);
}
inline int first_bit(std::uint32_t bits) {
  return __builtin_ctz(bits);
}
inline int count_bits(std::uint32_t bits) {
  return __builtin_popcount(bits);
}
inline std::uint32_t pack_bfloat16(float low, float high) {
  return bfloat16(low).bits | static_cast<std::uint32_t>(bfloat16(high).bits) << 16;
}
inline float2 unpack_bfloat16(std::uint32_t word) {
  return {bfloat16_of(word, 0), bfloat16_of(word, 1)};
}

// ---- waves of 64 lanes: what waves.h asks for
inline int wave_lane() {
  return emulator::block->current % 64;
}
template <typename T>
inline T wave_shuffle(T value, int source, EMULATOR_SITE) {
  emulator::offer(&value, sizeof value, site);
  T other;
  std::memcpy(&other, emulator::offered_by(source, "shuffle", site), sizeof other);
  return other;
}
inline std::uint64_t wave_ballot(bool vote, EMULATOR_SITE) {
  emulator::offer(&vote, sizeof vote, site);
  return emulator::votes_of_wave();
}
}  // namespace longhaul::gpu

#include "kernels/cuda/waves.h"

namespace longhaul::gpu {

// ---- cp.async
inline void copy_async_16(std::uint32_t destination, const void* source, bool valid, EMULATOR_SITE) {
  if (emulator::block->lock_step) {
    const emulator::Composed part(site);
    return by_lanes::copy_16(destination, source, valid);
  }
  emulator::shared_at(destination, 16, "cp.async", site);
  std::vector<char> data(16, 0);
  if (valid) {
    emulator::check_global(source, 16, "cp.async source", site);
    std::memcpy(data.data(), source, 16);
  }
  emulator::start_copy(destination, std::move(data), nullptr, site);
}
inline void copy_async_commit() {
  emulator::Fiber& fiber = emulator::self();
  fiber.copy_groups.push_back(std::move(fiber.open_copies));
  fiber.open_copies.clear();
}
template <int N>
inline void copy_async_wait() {
  emulator::wait_copies(N);
}

// ---- matrices
struct MatrixArgument {
  std::uint32_t address;
  std::uint32_t* registers;
};
void emulate_ldmatrix(MatrixArgument** lanes, bool transposed, emulator::Site site);
void emulate_stmatrix(MatrixArgument** lanes, emulator::Site site);
inline void ldmatrix_x4(std::uint32_t (&r)[4], std::uint32_t address, EMULATOR_SITE) {
  if (emulator::block->lock_step) {
    const emulator::Composed part(site);
    return by_lanes::ldmatrix_x4(r, address);
  }
  MatrixArgument argument{address, r};
  emulator::warp_meet(1, site, &argument, "ldmatrix", [&](MatrixArgument** p) { emulate_ldmatrix(p, false, site); });
}
inline void ldmatrix_x4_transposed(std::uint32_t (&r)[4], std::uint32_t address, EMULATOR_SITE) {
  if (emulator::block->lock_step) {
    const emulator::Composed part(site);
    return by_lanes::ldmatrix_x4_transposed(r, address);
  }
  MatrixArgument argument{address, r};
  emulator::warp_meet(2, site, &argument, "ldmatrix", [&](MatrixArgument** p) { emulate_ldmatrix(p, true, site); });
}
struct MmaArgument {
  float* d;
  const std::uint32_t *a, *b;
};
void emulate_mma(MmaArgument** lanes);
inline void mma_16x8x16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, EMULATOR_SITE) {
  if (emulator::block->lock_step) {
    const emulator::Composed part(site);
    return by_lanes::mma_16x8x16(d, a, b0, b1);
  }
  const std::uint32_t b[2] = {b0, b1};
  MmaArgument argument{d, a, b};
  emulator::warp_meet(3, site, &argument, "mma.sync", [](MmaArgument** p) { emulate_mma(p); });
}

// ---- warps
template <typename T>
struct ShuffleArgument {
  T in, out;
  int lane;
};
template <typename T>
inline T shuffle_xor(T value, int mask, EMULATOR_SITE) {
  if (emulator::block->lock_step) return by_lanes::shuffle_xor(value, mask, site);
  ShuffleArgument<T> argument{value, value, mask};
  emulator::warp_meet(4, site, &argument, "shfl.sync", [](ShuffleArgument<T>** p) {
    for (int lane = 0; lane < 32; lane++) p[lane]->out = p[lane ^ p[lane]->lane]->in;
  });
  return argument.out;
}
template <typename T>
inline T shuffle(T value, int source, EMULATOR_SITE) {
  if (emulator::block->lock_step) return by_lanes::shuffle(value, source, site);
  ShuffleArgument<T> argument{value, value, source & 31};
  emulator::warp_meet(5, site, &argument, "shfl.sync", [](ShuffleArgument<T>** p) {
    for (int lane = 0; lane < 32; lane++) p[lane]->out = p[p[lane]->lane]->in;
  });
  return argument.out;
}
inline std::uint32_t ballot(bool vote, EMULATOR_SITE) {
  if (emulator::block->lock_step) return by_lanes::ballot(vote, site);
  ShuffleArgument<std::uint32_t> argument{vote, 0, 0};
  emulator::warp_meet(6, site, &argument, "vote.sync", [](ShuffleArgument<std::uint32_t>** p) {
    std::uint32_t votes = 0;
    for (int lane = 0; lane < 32; lane++) votes |= p[lane]->in << lane;
    for (int lane = 0; lane < 32; lane++) p[lane]->out = votes;
  });
  return argument.out;
}

// ---- between ranks: flags that other devices may write (ld.acquire.sys, st.release.sys)
inline void signal_system(std::uint32_t* flag, std::uint32_t epoch, EMULATOR_SITE) {
  emulator::in_step(emulator::Stop::memory, site);
  emulator::check_global(flag, 4, "signal", site);
  emulator::release_flag(flag);
  emulator::signal_flag(flag, epoch);
}
inline void await_system(const std::uint32_t* flag, std::uint32_t epoch, const std::uint32_t* give_up = nullptr,
                         EMULATOR_SITE) {
  emulator::check_global(flag, 4, "signal", site);
  emulator::wait_ready(
      [=] {
        return static_cast<std::int32_t>(__atomic_load_n(flag, __ATOMIC_ACQUIRE) - epoch) >= 0 ||
               (give_up && __atomic_load_n(give_up, __ATOMIC_RELAXED));
      },
      "a wait for another rank", site, true);
  emulator::acquire_flag(flag);
}

/// For the device's counters (api.cu).
void count_launch();
template <typename P>
void launch(void (*kernel)(P), dim3 grid, int threads, std::size_t shared_bytes, P parameters,
            Stream stream = nullptr) {
  count_launch();
  emulator::launch(stream, {grid, threads, shared_bytes, [=] { kernel(parameters); }});
}
template <typename P>
void load(void (*)(P)) {}

}  // namespace longhaul::gpu

#include "tests/gpu_emulator/emulator/primitives_hopper.h"
