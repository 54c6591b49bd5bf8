// The float32 peak with AVX-512: independent chains, enough of them to hide the latency of two units.
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
  __m512 a = _mm512_setzero_ps(), b = a;
  asm volatile("" : "+v"(a), "+v"(b));
  for (std::int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 32
    for (__m512& sum : sums) sum = _mm512_fmadd_ps(a, b, sum);
    asm volatile("");
  }
#pragma GCC unroll 32
  for (__m512& sum : sums) asm volatile("" ::"v"(sum));
}

}  // namespace

extern const PeakBurst peak_float32_avx512;
constinit const PeakBurst peak_float32_avx512 = {chains * 16 * 2, run};

}  // namespace longhaul::cpu
