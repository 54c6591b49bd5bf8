// The float32 peak with AVX2 and FMA: independent chains, enough of them to hide the latency of two units.
#include <immintrin.h>

#include "kernels/cpu/peak.h"

namespace longhaul::cpu {
namespace {

constexpr int chains = 12;

void run(std::int64_t iterations) {
  __m256 sums[chains];
#pragma GCC unroll 32
  for (__m256& sum : sums) {
    sum = _mm256_setzero_ps();
    asm volatile("" : "+x"(sum));
  }
  __m256 a = _mm256_setzero_ps(), b = a;
  asm volatile("" : "+x"(a), "+x"(b));
  for (std::int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 32
    for (__m256& sum : sums) sum = _mm256_fmadd_ps(a, b, sum);
    asm volatile("");
  }
#pragma GCC unroll 32
  for (__m256& sum : sums) asm volatile("" ::"x"(sum));
}

}  // namespace

extern const PeakBurst peak_float32_avx2;
constinit const PeakBurst peak_float32_avx2 = {chains * 8 * 2, run};

}  // namespace longhaul::cpu
