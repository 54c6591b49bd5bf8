// Primitives in inline PTX that only sm_90a has. A translation unit that uses them is compiled for that alone.
#pragma once
#include <cuda.h>

namespace longhaul::gpu {

using TensorMap = CUtensorMap;

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ == 900

GPU_DEVICE void stmatrix_x4(std::uint32_t address, const std::uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(r[0]), "r"(r[1]),
               "r"(r[2]), "r"(r[3])
               : "memory");
}

// ---- mbarriers: a phase ends when all arrivals have come and all announced bytes have landed
GPU_DEVICE void mbarrier_init(std::uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
GPU_DEVICE void mbarrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
GPU_DEVICE void mbarrier_arrive(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
GPU_DEVICE void mbarrier_arrive_expect(std::uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
GPU_DEVICE void mbarrier_wait(std::uint32_t barrier, int parity) {
  asm volatile(
      "{\n.reg .pred p;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra DONE;\nbra AGAIN;\n"
      "DONE:\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
/// Own ordinary stores to shared memory become visible to the copy engine and to wgmma.
GPU_DEVICE void async_proxy_fence() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- the copy engine
GPU_DEVICE void tensor_load_4d(std::uint32_t destination, const TensorMap* map, std::uint32_t barrier, int c0, int c1,
                               int c2, int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3,%4,%5,%6}], [%2];" ::
          "r"(destination),
      "l"(map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}
GPU_DEVICE void bulk_load(std::uint32_t destination, const void* source, int bytes, std::uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(destination),
      "l"(source), "r"(bytes), "r"(barrier)
      : "memory");
}
/// destination[i] += source[i], in global memory.
GPU_DEVICE void bulk_add_float(float* destination, std::uint32_t source, int bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(destination),
               "r"(source), "r"(bytes)
               : "memory");
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
/// Own bulk stores have read their source; have been carried out.
GPU_DEVICE void bulk_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}
GPU_DEVICE void bulk_wait() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

// ---- flags between the blocks of a grid, around bulk additions
GPU_DEVICE void await_equal(const int* flag, int value) {
  int seen;
  do {
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
  } while (seen != value);
  asm volatile("fence.proxy.async;" ::: "memory");
}
GPU_DEVICE void publish(int* flag, int value) {
  asm volatile("fence.proxy.async;" ::: "memory");
  asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}

// ---- registers of a warpgroup
template <int REGISTERS>
GPU_DEVICE void registers_decrease() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
template <int REGISTERS>
GPU_DEVICE void registers_increase() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

// ---- wgmma
/// Matrix descriptor with 128-byte swizzle (tests/gpu_emulator/layouts.h).
GPU_DEVICE std::uint64_t wgmma_descriptor(std::uint32_t address, int leading_bytes, int stride_bytes) {
  return static_cast<std::uint64_t>((address & 0x3ffff) >> 4) | static_cast<std::uint64_t>(leading_bytes >> 4) << 16 |
         static_cast<std::uint64_t>(stride_bytes >> 4) << 32 | 1ull << 62;
}
GPU_DEVICE void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
GPU_DEVICE void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// All but the newest N groups are done.
template <int N>
GPU_DEVICE void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
// d (64 x N, fp32) = a (64 x 16) times b (N x 16)', plus d when `add`. kk: both K-major in shared memory; mm: both
// MN-major; rm: a in registers, b MN-major.
template <int N>
GPU_DEVICE void wgmma_kk(float (&d)[N / 2], std::uint64_t a, std::uint64_t b, bool add);
template <int N>
GPU_DEVICE void wgmma_mm(float (&d)[N / 2], std::uint64_t a, std::uint64_t b, bool add);
template <int N>
GPU_DEVICE void wgmma_rm(float (&d)[N / 2], const std::uint32_t (&a)[4], std::uint64_t b, bool add);

// Operand lists of the accumulators, by number of registers.
#define LONGHAUL_D8(i)                                                                                        \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define LONGHAUL_D16(i) LONGHAUL_D8(i), LONGHAUL_D8(i + 8)
#define LONGHAUL_D32(i) LONGHAUL_D16(i), LONGHAUL_D16(i + 16)
#define LONGHAUL_D64(i) LONGHAUL_D32(i), LONGHAUL_D32(i + 32)
#define LONGHAUL_NAMES16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define LONGHAUL_NAMES32 LONGHAUL_NAMES16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define LONGHAUL_NAMES64                                                                                              \
  LONGHAUL_NAMES32                                                                                                    \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59," \
  "%60,%61,%62,%63"

// Both operands in shared memory. `a_name`, `b_name`, `p_name`: the numbers of the operands after the accumulators.
#define LONGHAUL_WGMMA_SHARED(function, n, registers, names, a_name, b_name, p_name, transposed)                      \
  template <>                                                                                                         \
  GPU_DEVICE void function<n>(float(&d)[registers], std::uint64_t a, std::uint64_t b, bool add) {                     \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " p_name ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n              \
                 "k16.f32.bf16.bf16 {" names "}, " a_name ", " b_name ", p, 1, 1, " transposed ", " transposed ";\n}" \
                 : LONGHAUL_D##registers(0)                                                                           \
                 : "l"(a), "l"(b), "r"(static_cast<int>(add)));                                                       \
  }
LONGHAUL_WGMMA_SHARED(wgmma_kk, 64, 32, LONGHAUL_NAMES32, "%32", "%33", "%34", "0")
LONGHAUL_WGMMA_SHARED(wgmma_kk, 128, 64, LONGHAUL_NAMES64, "%64", "%65", "%66", "0")
LONGHAUL_WGMMA_SHARED(wgmma_mm, 32, 16, LONGHAUL_NAMES16, "%16", "%17", "%18", "1")
LONGHAUL_WGMMA_SHARED(wgmma_mm, 64, 32, LONGHAUL_NAMES32, "%32", "%33", "%34", "1")

#define LONGHAUL_WGMMA_REGISTERS(n, registers, names, a_names, b_name, p_name)                               \
  template <>                                                                                                \
  GPU_DEVICE void wgmma_rm<n>(float(&d)[registers], const std::uint32_t(&a)[4], std::uint64_t b, bool add) { \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " p_name ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n     \
                 "k16.f32.bf16.bf16 {" names "}, {" a_names "}, " b_name ", p, 1, 1, 1;\n}"                  \
                 : LONGHAUL_D##registers(0)                                                                  \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));          \
  }
LONGHAUL_WGMMA_REGISTERS(64, 32, LONGHAUL_NAMES32, "%32,%33,%34,%35", "%36", "%37")
LONGHAUL_WGMMA_REGISTERS(128, 64, LONGHAUL_NAMES64, "%64,%65,%66,%67", "%68", "%69")

#endif
}  // namespace longhaul::gpu
