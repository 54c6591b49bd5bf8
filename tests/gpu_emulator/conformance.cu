// Each primitive of kernels/cuda/gpu.h against the tables of layouts.h, with random inputs. The same file is built by
// g++ for the emulator and by nvcc for a GPU: what passes on the emulator and fails on hardware is a wrong emulator,
// and then no other test of it counts. Exits 1 when something is wrong.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "kernels/cuda/api.h"
#include "kernels/cuda/tensor_map.h"
#include "tests/gpu_emulator/layouts.h"

// Which primitives this build has; a GPU says at run time whether it can run them.
#if !defined(__CUDACC__) || !defined(__CUDA_ARCH__) || __CUDA_ARCH__ == 900
#define HAS_HOPPER 1
#else
#define HAS_HOPPER 0
#endif

namespace longhaul {
namespace {

namespace layout = gpu_layout;
using gpu::bfloat16;

std::mt19937 random_bits(3);
int wrong = 0;
// Multiples of 1/4 in [-2, 2]: exact in bf16, and so are the sums of products in fp32.
float small() {
  return static_cast<float>(static_cast<int>(random_bits() % 17)) / 4 - 2;
}
std::uint32_t bits(float value) {
  std::uint32_t word;
  std::memcpy(&word, &value, 4);
  return word >> 16;
}
void report(const char* name, double largest_error) {
  std::printf("%-52s %s (largest error %g)\n", name, largest_error == 0 ? "ok" : "WRONG", largest_error);
  wrong += largest_error != 0;
}

// Memory that host and device share.
template <typename T>
T* allocate(std::size_t count) {
  void* memory = nullptr;
#ifdef __CUDACC__
  if (cudaMallocManaged(&memory, count * sizeof(T)) != cudaSuccess) std::exit(2);
#else
  memory = std::aligned_alloc(1024, (count * sizeof(T) + 1023) / 1024 * 1024);
  emulator::register_global(memory, count * sizeof(T));
#endif
  std::memset(memory, 0, count * sizeof(T));
  return static_cast<T*>(memory);
}
void finish() {
#ifdef __CUDACC__
  const cudaError_t error = cudaDeviceSynchronize();
  if (error != cudaSuccess) std::printf("CUDA: %s\n", cudaGetErrorString(error)), std::exit(2);
#endif
}

struct Parameters {
  const std::uint32_t* in;
  const float* c;
  std::uint32_t* out;
  float* d;
  gpu::TensorMap first, second;
};

// ---- sm_80
GPU_KERNEL mma_kernel(GPU_PARAMETER Parameters p) {  // two warps; a lane: 4 words of A, 2 of B, 4 values of C
  const int lane = gpu::thread_index();
  std::uint32_t a[4];
  float d[4];
  for (int i = 0; i < 4; i++) a[i] = p.in[lane * 6 + i], d[i] = p.c[lane * 4 + i];
  gpu::mma_16x8x16(d, a, p.in[lane * 6 + 4], p.in[lane * 6 + 5]);
  for (int i = 0; i < 4; i++) p.d[lane * 4 + i] = d[i];
}
GPU_KERNEL ldmatrix_kernel(GPU_PARAMETER Parameters p) {  // two warps; a row of 16 bytes a lane, in an odd order
  const int lane = gpu::thread_index();
  const std::uint32_t mine = gpu::shared_base() + (lane ^ 5) * 16;
  for (int i = 0; i < 4; i++) gpu::shared_store(mine + i * 4, p.in[lane * 4 + i]);
  gpu::warp_sync();
  std::uint32_t plain[4], transposed[4];
  gpu::ldmatrix_x4(plain, mine);
  gpu::ldmatrix_x4_transposed(transposed, mine);
  for (int i = 0; i < 4; i++) p.out[lane * 8 + i] = plain[i], p.out[lane * 8 + 4 + i] = transposed[i];
}
template <bool NAMED>
GPU_KERNEL warp_kernel(GPU_PARAMETER Parameters p) {  // cp.async groups and zero fill, shuffles, votes, named barriers
  const int t = gpu::thread_index(), lane = t & 31;
  const std::uint32_t mine = gpu::shared_base() + t * 32;
  gpu::copy_async_16(mine, p.in + t * 4, true);
  gpu::copy_async_commit();
  gpu::copy_async_16(mine + 16, p.in + t * 4, t % 3 != 0);
  gpu::copy_async_commit();
  gpu::copy_async_wait<1>();
  std::uint32_t first = gpu::shared_load<std::uint32_t>(mine);
  gpu::copy_async_wait<0>();
  const std::uint32_t second = gpu::shared_load<std::uint32_t>(mine + 16);
  const std::uint32_t other = gpu::shuffle_xor(first, 5), third = gpu::shuffle(first, (lane * 7) & 31);
  const std::uint32_t vote = gpu::ballot((lane + t / 32) % 3 == 1);
  gpu::block_sync();
  if (t < 32) {  // warp 0 hands a value to warp 1
    gpu::shared_store<std::uint32_t>(gpu::shared_base() + 2048 + t * 4, first + 1);
    if (NAMED) gpu::named_barrier_arrive(3, 64);
  }
  if (!NAMED) gpu::block_sync();
  if (t >= 32) {
    if (NAMED) gpu::named_barrier_sync(3, 64);
    first = gpu::shared_load<std::uint32_t>(gpu::shared_base() + 2048 + (t - 32) * 4);
  }
  const std::uint32_t values[5] = {first, second, other, vote, third};
  for (int i = 0; i < 5; i++) p.out[t * 5 + i] = values[i];
}
GPU_KERNEL rounding_kernel(GPU_PARAMETER Parameters p) {  // pack and unpack
  const int t = gpu::thread_index();
  p.out[t] = gpu::pack_bfloat16(p.c[2 * t], p.c[2 * t + 1]);
  const float2 back = gpu::unpack_bfloat16(p.out[t]);
  p.d[2 * t] = back.x, p.d[2 * t + 1] = back.y;
}

GPU_KERNEL approximation_kernel(GPU_PARAMETER Parameters p) {
  const int t = gpu::thread_index();
  p.d[t] = gpu::exp2_fast(p.c[t]);
  p.d[128 + t] = gpu::log2_fast(p.c[128 + t]);
  p.d[256 + t] = gpu::inverse_square_root(p.c[128 + t]);
}
GPU_KERNEL rank_flag_kernel(GPU_PARAMETER Parameters p) {  // block 0 hands values to block 1
  const int t = gpu::thread_index();
  if (gpu::block_x() == 0) {
    gpu::global_store(p.out + 32 + t, gpu::global_load(p.in + t));
    gpu::warp_sync();
    if (t == 0) gpu::signal_system(p.out, 0x80000003u);
  } else {
    if (t == 0) gpu::await_system(p.out, 0x80000002u);  // an epoch that has been passed
    gpu::warp_sync();
    gpu::global_store(p.out + 64 + t, gpu::global_load_mutable(p.out + 32 + t) + 1);
  }
}

// ---- sm_90a
constexpr int kN = 128, kBarrierAt = 64 * 128 * 2 + kN * 128 * 2;
#if HAS_HOPPER
GPU_DEVICE void fetch_tiles(const Parameters& p) {  // two panels of 64 columns: 64 rows of first, then kN of second
  const std::uint32_t base = gpu::shared_base(), barrier = base + kBarrierAt;
  if (gpu::thread_index() == 0) {
    gpu::mbarrier_init(barrier, 1);
    gpu::mbarrier_init_fence();
  }
  gpu::block_sync();
  if (gpu::thread_index() == 0) {
    gpu::mbarrier_arrive_expect(barrier, kBarrierAt);
    for (int c = 0; c < 2; c++) {
      gpu::tensor_load_4d(base + c * 8192, &p.first, barrier, c * 64, 3, 1, 0);
      gpu::tensor_load_4d(base + 16384 + c * kN * 128, &p.second, barrier, c * 64, 3, 1, 0);
    }
  }
  gpu::mbarrier_wait(barrier, 0);
}
#endif
GPU_KERNEL GPU_LAUNCH_BOUNDS(128, 1) tensor_load_kernel(GPU_PARAMETER Parameters p) {  // memory as the copies left it
#if HAS_HOPPER
  fetch_tiles(p);
  for (int i = gpu::thread_index(); i < kBarrierAt / 4; i += 128)
    p.out[i] = gpu::shared_load<std::uint32_t>(gpu::shared_base() + i * 4);
#endif
}
enum Form { kSharedKMajor, kRegisters, kSharedMnMajor, kSharedMnMajorHalfLine, kRegisters64, kSharedKMajor64 };
template <Form FORM, int N>
GPU_KERNEL GPU_LAUNCH_BOUNDS(128, 1) wgmma_kernel(GPU_PARAMETER Parameters p) {
#if HAS_HOPPER
  fetch_tiles(p);
  const std::uint32_t a = gpu::shared_base(), b = a + 16384;
  const int t = gpu::thread_index();
  float d[N / 2];
  for (int i = 0; i < N / 2; i++) d[i] = 0.5f;
  gpu::wgmma_fence();
  if constexpr (FORM == kSharedKMajor || FORM == kSharedKMajor64)  // A [64][128] x B [N rows][128]', 8 steps, 2 panels
    for (int k = 0; k < 8; k++)
      gpu::wgmma_kk<N>(d, gpu::wgmma_descriptor(a + k / 4 * 8192 + k % 4 * 32, 16, 1024),
                       gpu::wgmma_descriptor(b + k / 4 * kN * 128 + k % 4 * 32, 16, 1024), true);
  if constexpr (FORM == kRegisters || FORM == kRegisters64) {  // A [64][16] x B [16 rows][N columns]; not added to d
    std::uint32_t r[4];
    for (int i = 0; i < 4; i++) r[i] = p.in[t * 4 + i];
    gpu::wgmma_rm<N>(d, r, gpu::wgmma_descriptor(b + 2048, kN * 128, 1024), false);
  }
  if constexpr (FORM == kSharedMnMajor)  // A' [16 rows][64 columns] x B [16 rows][64 columns]
    gpu::wgmma_mm<N>(d, gpu::wgmma_descriptor(a + 2048, 16, 1024), gpu::wgmma_descriptor(b + kN * 128 + 4096, 16, 1024),
                     true);
  if constexpr (FORM == kSharedMnMajorHalfLine)  // the same with the second 32 columns of B alone
    gpu::wgmma_mm<N>(d, gpu::wgmma_descriptor(a + 2048, 16, 1024),
                     gpu::wgmma_descriptor(b + kN * 128 + 4096 + 64, 16, 1024), true);
  gpu::wgmma_commit();
  gpu::wgmma_wait<0>();
  for (int i = 0; i < N / 2; i++) p.d[t * (N / 2) + i] = d[i];
#endif
}
GPU_KERNEL bulk_kernel(GPU_PARAMETER Parameters p) {  // bulk copy in, add out
#if HAS_HOPPER
  const std::uint32_t base = gpu::shared_base(), barrier = base + 1024;
  if (gpu::thread_index() == 0) {
    gpu::mbarrier_init(barrier, 1);
    gpu::mbarrier_init_fence();
  }
  gpu::block_sync();
  if (gpu::thread_index() == 0) {
    gpu::mbarrier_arrive_expect(barrier, 1024);
    gpu::bulk_load(base, p.c, 1024, barrier);
  }
  gpu::mbarrier_wait(barrier, 0);
  for (int i = 0; i < 2; i++) {
    const std::uint32_t at = base + (gpu::thread_index() * 2 + i) * 4;
    gpu::shared_store(at, gpu::shared_load<float>(at) * 2);
  }
  gpu::async_proxy_fence();
  gpu::block_sync();
  if (gpu::thread_index() == 0) {
    gpu::bulk_add_float(p.d, base, 1024);
    gpu::bulk_wait();
  }
#endif
}
GPU_KERNEL block_flag_kernel(GPU_PARAMETER Parameters p) {  // blocks add to the same floats, in their order
#if HAS_HOPPER
  const int t = gpu::thread_index(), me = gpu::block_x();
  const std::uint32_t base = gpu::shared_base();
  int* turn = reinterpret_cast<int*>(p.out);
  gpu::shared_store(base + t * 4, p.c[me * 128 + t]);
  gpu::async_proxy_fence();
  gpu::block_sync();
  if (t == 0) {
    gpu::await_equal(turn, me);
    gpu::bulk_add_float(p.d, base, 512);
    gpu::bulk_wait();
    gpu::publish(turn, me + 1);
  }
#endif
}
GPU_KERNEL stmatrix_kernel(GPU_PARAMETER Parameters p) {
#if HAS_HOPPER
  const int lane = gpu::thread_index();
  std::uint32_t r[4];
  for (int i = 0; i < 4; i++) r[i] = p.in[lane * 4 + i];
  gpu::stmatrix_x4(gpu::shared_base() + (lane ^ 9) * 16, r);
  gpu::warp_sync();
  for (int i = 0; i < 4; i++)
    p.out[lane * 4 + i] = gpu::shared_load<std::uint32_t>(gpu::shared_base() + (lane ^ 9) * 16 + i * 4);
#endif
}
GPU_KERNEL GPU_LAUNCH_BOUNDS(384, 1) registers_kernel(GPU_PARAMETER Parameters p) {  // the attention kernels' pool
#if HAS_HOPPER
  if (gpu::thread_index() < 128)
    gpu::registers_decrease<24>();
  else
    gpu::registers_increase<240>();
  p.out[gpu::thread_index()] = gpu::thread_index() * 3;
#endif
}

// What every device has; named barriers are NVIDIA's.
template <bool NAMED>
void test_portable() {
  Parameters p{};
  {
    std::uint32_t* in = allocate<std::uint32_t>(64 * 6);
    float *c = allocate<float>(256), *d = allocate<float>(256), a[2][16][16], b[2][16][8], sums[2][16][8];
    for (auto& rows : a)
      for (auto& row : rows)
        for (float& x : row) x = small();
    for (auto& rows : b)
      for (auto& row : rows)
        for (float& x : row) x = small();
    for (auto& rows : sums)
      for (auto& row : rows)
        for (float& x : row) x = small();
    for (int lane = 0; lane < 64; lane++) {
      const int w = lane / 32;
      auto a_bits = [&](int e) {
        return bits(a[w][layout::mma_a(lane % 32, e).row][layout::mma_a(lane % 32, e).column]);
      };
      auto b_bits = [&](int e) {
        return bits(b[w][layout::mma_b(lane % 32, e).row][layout::mma_b(lane % 32, e).column]);
      };
      for (int i = 0; i < 4; i++) in[lane * 6 + i] = a_bits(2 * i) | a_bits(2 * i + 1) << 16;
      for (int i = 0; i < 2; i++) in[lane * 6 + 4 + i] = b_bits(2 * i) | b_bits(2 * i + 1) << 16;
      for (int e = 0; e < 4; e++)
        c[lane * 4 + e] = sums[w][layout::mma_c(lane % 32, e).row][layout::mma_c(lane % 32, e).column];
    }
    p.in = in, p.c = c, p.d = d;
    gpu::launch(mma_kernel, dim3(1), 64, 0, p);
    finish();
    double worst = 0;
    for (int lane = 0; lane < 64; lane++)
      for (int e = 0; e < 4; e++) {
        const layout::Place at = layout::mma_c(lane % 32, e);
        double want = sums[lane / 32][at.row][at.column];
        for (int k = 0; k < 16; k++) want += static_cast<double>(a[lane / 32][at.row][k]) * b[lane / 32][k][at.column];
        worst = std::fmax(worst, std::fabs(want - d[lane * 4 + e]));
      }
    report("mma.m16n8k16 bf16", worst);
  }
  {
    std::uint32_t *in = allocate<std::uint32_t>(256), *out = allocate<std::uint32_t>(512);
    for (int i = 0; i < 256; i++) in[i] = static_cast<std::uint32_t>(random_bits());
    p.in = in, p.out = out;
    gpu::launch(ldmatrix_kernel, dim3(1), 64, 1024, p);
    finish();
    double bad = 0;
    for (int lane = 0; lane < 64; lane++)
      for (int matrix = 0; matrix < 4; matrix++)
        for (int e = 0; e < 2; e++) {
          auto element = [&](int row, int column) {
            const int from = lane / 32 * 32 + layout::ldmatrix_row_lane(matrix, row);
            return in[from * 4 + column / 2] >> (16 * (column & 1)) & 0xffff;
          };
          const layout::Place at = layout::ldmatrix_element(lane % 32, e);
          bad += (out[lane * 8 + matrix] >> (16 * e) & 0xffff) != element(at.row, at.column);
          bad += (out[lane * 8 + 4 + matrix] >> (16 * e) & 0xffff) != element(at.column, at.row);
        }
    report("ldmatrix.x4, plain and .trans", bad);
  }
  {
    std::uint32_t *in = allocate<std::uint32_t>(256), *out = allocate<std::uint32_t>(320);
    for (int i = 0; i < 256; i++) in[i] = static_cast<std::uint32_t>(random_bits()) | 1;
    p.in = in, p.out = out;
    gpu::launch(warp_kernel<NAMED>, dim3(1), 64, 2048 + 128, p);
    finish();
    double bad = 0;
    for (int t = 0; t < 64; t++) {
      bad += out[t * 5] != (t < 32 ? in[t * 4] : in[(t - 32) * 4] + 1);
      bad += out[t * 5 + 1] != (t % 3 ? in[t * 4] : 0);
      bad += out[t * 5 + 2] != in[(t ^ 5) * 4];
      bad += out[t * 5 + 3] != (t < 32 ? 0x92492492u : 0x49249249u);
      bad += out[t * 5 + 4] != in[(t / 32 * 32 + (t % 32 * 7) % 32) * 4];
    }
    report(NAMED ? "cp.async, shfl, vote, named barrier" : "cp.async, shfl, vote", bad);
  }
  {
    float *c = allocate<float>(128), *d = allocate<float>(128);
    std::uint32_t* out = allocate<std::uint32_t>(64);
    for (int i = 0; i < 128; i++) {
      std::uint32_t word = static_cast<std::uint32_t>(random_bits());
      if (i % 4 == 0) word = (word & 0xffff0000u) | 0x8000u;  // ties
      word &= 0xbfffffffu;                                    // finite
      std::memcpy(&c[i], &word, 4);
    }
    p.c = c, p.d = d, p.out = out;
    gpu::launch(rounding_kernel, dim3(1), 64, 0, p);
    finish();
    double bad = 0;
    for (int i = 0; i < 128; i++) {
      std::uint32_t word;
      std::memcpy(&word, &c[i], 4);
      const std::uint32_t rounded = (word + 0x7fff + (word >> 16 & 1)) >> 16;
      bad += (out[i / 2] >> (16 * (i & 1)) & 0xffff) != rounded || bits(d[i]) != rounded;
    }
    report("cvt.rn.bf16x2, ties to even, and back", bad);
  }
  {
    float *c = allocate<float>(256), *d = allocate<float>(384);
    for (int i = 0; i < 128; i++) {
      c[i] = (static_cast<float>(random_bits() % 100000) - 80000) / 1000;
      c[128 + i] = std::ldexp(1 + static_cast<float>(random_bits() % 100000) / 100000,
                              static_cast<int>(random_bits() % 60) - 30);
    }
    p.c = c, p.d = d;
    gpu::launch(approximation_kernel, dim3(1), 128, 0, p);
    finish();
    double worst = 0;
    for (int i = 0; i < 128; i++) {
      const double x = c[128 + i], power = std::exp2(static_cast<double>(c[i]));
      worst = std::fmax(worst, std::fabs(d[i] - power) / power);
      worst = std::fmax(worst, std::fabs(d[128 + i] - std::log2(x)) / std::fmax(1, std::fabs(std::log2(x))));
      worst = std::fmax(worst, std::fabs(d[256 + i] * std::sqrt(x) - 1));
    }
    report("exp2, log2, rsqrt to 5e-7", worst < 5e-7 ? 0 : worst);
  }
  {
    std::uint32_t *in = allocate<std::uint32_t>(32), *out = allocate<std::uint32_t>(96);
    for (int i = 0; i < 32; i++) in[i] = static_cast<std::uint32_t>(random_bits());
    out[0] = 0x80000001u;
    p.in = in, p.out = out;
    gpu::launch(rank_flag_kernel, dim3(2), 32, 0, p);
    finish();
    double bad = 0;
    for (int i = 0; i < 32; i++) bad += out[64 + i] != in[i] + 1;
    report("system flags, epochs beyond 2^31", bad);
  }
}

void test_sm90a() {
  Parameters p{};
  // [batch 1][row 90][head 2][column 128]; tiles start at row 3 of head 1, so the last rows lie outside.
  const int rows = 90;
  bfloat16 *x = allocate<bfloat16>(2 * rows * 128), *y = allocate<bfloat16>(2 * rows * 128);
  for (int i = 0; i < 2 * rows * 128; i++) x[i] = bfloat16(small()), y[i] = bfloat16(small());
  const cuda::Strides strides{2 * rows * 128, 256, 128};
  p.first = cuda::tensor_map({x, strides}, 1, rows, 2, 128, 64);
  p.second = cuda::tensor_map({y, strides}, 1, rows, 2, 128, kN);
  auto at = [&](const bfloat16* m, int row, int column) {
    return row + 3 < rows ? static_cast<float>(m[(row + 3) * 256 + 128 + column]) : 0.0f;
  };
  const std::size_t shared = kBarrierAt + 1024;
  {
    std::uint32_t* out = allocate<std::uint32_t>(kBarrierAt / 4);
    p.out = out;
    gpu::launch(tensor_load_kernel, dim3(1), 128, shared, p);
    finish();
    double bad = 0;
    const auto* halves = reinterpret_cast<const std::uint16_t*>(out);
    for (int which = 0; which < 2; which++)
      for (int row = 0; row < (which ? kN : 64); row++)
        for (int column = 0; column < 128; column++) {
          const std::uint32_t panel = which ? 16384 + column / 64 * kN * 128 : column / 64 * 8192;
          const std::uint32_t byte =
              panel + layout::swizzle_128(static_cast<std::uint32_t>(row * 128 + column % 64 * 2));
          bad += halves[byte / 2] != bits(at(which ? y : x, row, column));
        }
    report("tensor copy, 4-D, 128-byte swizzle, zero fill", bad);
  }
  auto check_wgmma = [&](const char* name, void (*kernel)(Parameters), int n,
                         const std::function<double(int, int)>& want) {
    float* d = allocate<float>(64 * n);
    p.d = d;
    gpu::launch(kernel, dim3(1), 128, shared, p);
    finish();
    double worst = 0;
    for (int t = 0; t < 128; t++)
      for (int e = 0; e < n / 2; e++) {
        const layout::Place place = layout::wgmma_d(t, e);
        worst = std::fmax(worst, std::fabs(want(place.row, place.column) - d[t * (n / 2) + e]));
      }
    report(name, worst);
  };
  auto k_major = [&](int m, int n) {
    double sum = 0.5;
    for (int k = 0; k < 128; k++) sum += static_cast<double>(at(x, m, k)) * at(y, n, k);
    return sum;
  };
  check_wgmma("wgmma n128, A and B K-major in shared memory", wgmma_kernel<kSharedKMajor, 128>, 128, k_major);
  check_wgmma("wgmma n64, A and B K-major in shared memory", wgmma_kernel<kSharedKMajor64, 64>, 64, k_major);

  std::uint32_t* in = allocate<std::uint32_t>(512);
  std::vector<float> a(64 * 16);
  for (float& value : a) value = small();
  for (int t = 0; t < 128; t++)
    for (int i = 0; i < 4; i++) {
      const layout::Place low = layout::wgmma_a(t, 2 * i), high = layout::wgmma_a(t, 2 * i + 1);
      in[t * 4 + i] = bits(a[low.row * 16 + low.column]) | bits(a[high.row * 16 + high.column]) << 16;
    }
  p.in = in;
  auto from_registers = [&](int m, int n) {
    double sum = 0;
    for (int k = 0; k < 16; k++) sum += static_cast<double>(a[m * 16 + k]) * at(y, 16 + k, n);
    return sum;
  };
  check_wgmma("wgmma n128, A in registers, B MN-major", wgmma_kernel<kRegisters, 128>, 128, from_registers);
  check_wgmma("wgmma n64, A in registers, B MN-major", wgmma_kernel<kRegisters64, 64>, 64, from_registers);
  auto mn_major = [&](int m, int n) {
    double sum = 0.5;
    for (int k = 0; k < 16; k++) sum += static_cast<double>(at(x, 16 + k, m)) * at(y, 32 + k, 64 + n);
    return sum;
  };
  check_wgmma("wgmma n64, A and B MN-major in shared memory", wgmma_kernel<kSharedMnMajor, 64>, 64, mn_major);
  check_wgmma("wgmma n32, B MN-major from the middle of a line", wgmma_kernel<kSharedMnMajorHalfLine, 32>, 32,
              [&](int m, int n) { return mn_major(m, n + 32); });
  {
    float *c = allocate<float>(256), *d = allocate<float>(256);
    for (int i = 0; i < 256; i++) c[i] = small(), d[i] = static_cast<float>(i);
    p.c = c, p.d = d;
    gpu::launch(bulk_kernel, dim3(1), 128, 2048, p);
    finish();
    double worst = 0;
    for (int i = 0; i < 256; i++) worst = std::fmax(worst, std::fabs(d[i] - (static_cast<float>(i) + 2 * c[i])));
    report("bulk copy, proxy fence, bulk add", worst);
  }
  {
    constexpr int kBlocks = 24;
    float *c = allocate<float>(kBlocks * 128), *d = allocate<float>(128);
    std::uint32_t* turn = allocate<std::uint32_t>(4);
    for (int i = 0; i < kBlocks * 128; i++) c[i] = std::ldexp(small() + 3, static_cast<int>(random_bits() % 40) - 20);
    p.c = c, p.d = d, p.out = turn;
    gpu::launch(block_flag_kernel, dim3(kBlocks), 128, 1024, p);
    finish();
    double bad = 0;
    for (int i = 0; i < 128; i++) {
      float sum = 0;  // rounds at every step, so only this order gives these bits
      for (int block = 0; block < kBlocks; block++) sum += c[block * 128 + i];
      bad += d[i] != sum;
    }
    report("bulk adds of blocks that take turns", bad);
  }
  {
    std::uint32_t *words = allocate<std::uint32_t>(128), *out = allocate<std::uint32_t>(128);
    for (int i = 0; i < 128; i++) words[i] = static_cast<std::uint32_t>(random_bits());
    p.in = words, p.out = out;
    gpu::launch(stmatrix_kernel, dim3(1), 32, 512, p);
    finish();
    double bad = 0;
    for (int lane = 0; lane < 32; lane++)
      for (int matrix = 0; matrix < 4; matrix++)
        for (int e = 0; e < 2; e++) {
          const layout::Place place = layout::ldmatrix_element(lane, e);
          const std::uint32_t row = out[layout::ldmatrix_row_lane(matrix, place.row) * 4 + place.column / 2];
          bad += (row >> (16 * (place.column & 1)) & 0xffff) != (words[lane * 4 + matrix] >> (16 * e) & 0xffff);
        }
    report("stmatrix.x4", bad);
  }
  {
    std::uint32_t* out = allocate<std::uint32_t>(384);
    p.out = out;
    gpu::launch(registers_kernel, dim3(1), 384, 0, p);
    finish();
    double bad = 0;
    for (std::uint32_t t = 0; t < 384; t++) bad += out[t] != t * 3;
    report("setmaxnreg 24 and 240 out of 384 threads' pool", bad);
  }
}

}  // namespace
}  // namespace longhaul

#ifdef __CUDACC__
void longhaul::gpu::report_launch_error(cudaError_t error, const void*, int, std::size_t) {
  std::printf("launch: %s\n", cudaGetErrorString(error));
  std::exit(2);
}
void longhaul::gpu::count_launch() {}
#endif

int main() {
  bool hopper = true;
#ifdef __CUDACC__
  cudaDeviceProp device;
  if (cudaGetDeviceProperties(&device, 0) != cudaSuccess) {
    std::printf("no CUDA device\n");
    return 2;
  }
  hopper = device.major == 9 && device.minor == 0;
  std::printf("%s, sm_%d%d\n", device.name, device.major, device.minor);
#endif
  longhaul::test_portable<true>();
  if (hopper)
    longhaul::test_sm90a();
  else
    std::printf("the sm_90a primitives are not tested on this device\n");
#ifndef __CUDACC__
  std::printf("waves of 64 lanes in lock step, matrices by shuffles (kernels/cuda/waves.h):\n");
  longhaul::emulator::options.wave = 64;
  longhaul::test_portable<false>();
#endif
  std::printf("%d wrong\n", longhaul::wrong);
  return longhaul::wrong != 0;
}
