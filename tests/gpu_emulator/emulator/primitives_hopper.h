// The sm_90a primitives, emulated: mbarriers, tensor and bulk copies, stmatrix, setmaxnreg, wgmma.
#pragma once
#include "tests/gpu_emulator/emulator/core.h"

namespace longhaul::gpu {

inline void stmatrix_x4(std::uint32_t address, const std::uint32_t (&r)[4], EMULATOR_SITE) {
  MatrixArgument argument{address, const_cast<std::uint32_t*>(r)};
  emulator::warp_meet(7, site, &argument, "stmatrix", [&](MatrixArgument** p) { emulate_stmatrix(p, site); });
}

// ---- mbarriers
void mbarrier_init(std::uint32_t barrier, int arrivals, EMULATOR_SITE);
void mbarrier_init_fence();
void mbarrier_arrive(std::uint32_t barrier, EMULATOR_SITE);
void mbarrier_arrive_expect(std::uint32_t barrier, int bytes, EMULATOR_SITE);
/// Until the phase of this parity has completed.
void mbarrier_wait(std::uint32_t barrier, int parity, EMULATOR_SITE);
inline void async_proxy_fence() {
  emulator::Fiber& fiber = emulator::self();
  fiber.proxy_fence = ++fiber.clock[fiber.id];
}

// ---- the copy engine
void tensor_load_4d(std::uint32_t destination, const TensorMap* map, std::uint32_t barrier, int c0, int c1, int c2,
                    int c3, EMULATOR_SITE);
void bulk_load(std::uint32_t destination, const void* source, int bytes, std::uint32_t barrier, EMULATOR_SITE);
void bulk_add_float(float* destination, std::uint32_t source, int bytes, EMULATOR_SITE);
inline void bulk_wait_read() {
  for (auto& store : emulator::self().bulk_stores) store();
  emulator::self().bulk_stores.clear();
}
inline void bulk_wait() {
  bulk_wait_read();
}

// ---- flags between the blocks of a grid
inline void await_equal(const int* flag, int value, EMULATOR_SITE) {
  emulator::check_global(flag, 4, "flag", site);
  emulator::wait_ready([=] { return *flag == value; }, "a wait for another block", site);
}
inline void publish(int* flag, int value, EMULATOR_SITE) {
  emulator::check_global(flag, 4, "flag", site);
  *flag = value;
}

// ---- registers: what the block was launched with is a pool; taking more than was given back waits for ever
void register_pool_change(int registers, bool increase, emulator::Site site);
template <int REGISTERS>
inline void registers_decrease(EMULATOR_SITE) {
  register_pool_change(REGISTERS, false, site);
}
template <int REGISTERS>
inline void registers_increase(EMULATOR_SITE) {
  register_pool_change(REGISTERS, true, site);
}

// ---- wgmma
inline std::uint64_t wgmma_descriptor(std::uint32_t address, int leading_bytes, int stride_bytes) {
  return static_cast<std::uint64_t>((address & 0x3ffff) >> 4) | static_cast<std::uint64_t>(leading_bytes >> 4) << 16 |
         static_cast<std::uint64_t>(stride_bytes >> 4) << 32 | 1ull << 62;
}
void wgmma_fence();
void wgmma_commit(EMULATOR_SITE);
void emulate_wgmma_wait(int newest_left, emulator::Site site);
template <int N>
inline void wgmma_wait(EMULATOR_SITE) {
  emulate_wgmma_wait(N, site);
}
void emulate_wgmma(int n, float* d, const std::uint32_t* a_registers, std::uint64_t a, std::uint64_t b, bool a_mn_major,
                   bool b_mn_major, bool add, emulator::Site site);
template <int N>
inline void wgmma_kk(float (&d)[N / 2], std::uint64_t a, std::uint64_t b, bool add, EMULATOR_SITE) {
  emulate_wgmma(N, d, nullptr, a, b, false, false, add, site);
}
template <int N>
inline void wgmma_mm(float (&d)[N / 2], std::uint64_t a, std::uint64_t b, bool add, EMULATOR_SITE) {
  emulate_wgmma(N, d, nullptr, a, b, true, true, add, site);
}
template <int N>
inline void wgmma_rm(float (&d)[N / 2], const std::uint32_t (&a)[4], std::uint64_t b, bool add, EMULATOR_SITE) {
  emulate_wgmma(N, d, a, 0, b, false, true, add, site);
}

}  // namespace longhaul::gpu
