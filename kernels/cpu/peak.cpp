#include "kernels/cpu/peak.h"

#include <time.h>

#include "kernels/cpu/isa.h"

namespace longhaul::cpu {
namespace {

/// Seconds that this thread has run: other processes on the same core do not count.
double now() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

/// Eight chains of four floats: what any x86-64 can do without fused operations.
void run_generic(std::int64_t iterations) {
  typedef float Four __attribute__((vector_size(16)));
  Four chains[8] = {};
  Four a = {1, 1, 1, 1}, b = {0, 0, 0, 0};
  asm volatile("" : "+x"(a), "+x"(b));
  for (std::int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 8
    for (Four& chain : chains) chain = chain * a + b;
    asm volatile("");
  }
  for (Four& chain : chains) asm volatile("" ::"x"(chain));
}
constexpr PeakBurst generic = {8 * 4 * 2, run_generic};

double measure(const PeakBurst& burst, double seconds) {
  const std::int64_t trial = 2000;
  double start = now();
  burst.run(trial);
  const double each = (now() - start) / trial;
  const std::int64_t iterations =
      each > 0 && each * trial < seconds ? static_cast<std::int64_t>(seconds / each) : trial;
  start = now();
  burst.run(iterations);
  return burst.operations_an_iteration * static_cast<double>(iterations) / (now() - start);
}

}  // namespace

double measure_float32_peak(double seconds) {
  const Isa isa = usable_isa();
  return measure(isa >= Isa::avx512 ? peak_float32_avx512 : isa >= Isa::avx2 ? peak_float32_avx2 : generic, seconds);
}

double measure_bfloat16_peak(double seconds) {
  return usable_isa() >= Isa::avx512bf16 ? measure(peak_bfloat16_avx512, seconds) : 0;
}

double measure_triad(float* a, const float* b, const float* c, std::int64_t count) {
  const double start = now();
  for (std::int64_t i = 0; i < count; ++i) a[i] = b[i] + 3 * c[i];
  asm volatile("" ::"r"(a) : "memory");
  return 12 * static_cast<double>(count) / (now() - start);
}

}  // namespace longhaul::cpu
