// The bfloat16 peak with AVX-512 BF16: independent chains, for the latency of vdpbf16ps is long.
#include <immintrin.h>

#include "kernels/cpu/peak.h"

namespace longhaul::cpu {
namespace {

constexpr int chains = 24;

void run(std::int64_t iterations) {
  __m512 sums[chains];
#pragma GCC unroll 32
  for (__m512& sum : sums) {
    sum = _mm512_setzero_ps();
    asm volatile("" : "+v"(sum));
  }
  __m512bh a = (__m512bh)_mm512_setzero_ps(), b = a;
  asm volatile("" : "+v"(a), "+v"(b));
  for (std::int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 32
    for (__m512& sum : sums) sum = _mm512_dpbf16_ps(sum, a, b);
    asm volatile("");
  }
#pragma GCC unroll 32
  for (__m512& sum : sums) asm volatile("" ::"v"(sum));
}

}  // namespace

extern const PeakBurst peak_bfloat16_avx512bf16;
constinit const PeakBurst peak_bfloat16_avx512bf16 = {chains * 16 * 4, run};

}  // namespace longhaul::cpu
