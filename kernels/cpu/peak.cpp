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
  for (const InstructionSet& set : instruction_sets())
    if (set.peak_float32 && usable(set)) return measure(*set.peak_float32, seconds);
  return 0;
}

double measure_bfloat16_peak(double seconds) {
  for (const InstructionSet& set : instruction_sets())
    if (set.peak_bfloat16 && usable(set)) return measure(*set.peak_bfloat16, seconds);
  return 0;
}

double measure_triad(float* a, const float* b, const float* c, std::int64_t count) {
  const double start = now();
  for (std::int64_t i = 0; i < count; ++i) a[i] = b[i] + 3 * c[i];
  asm volatile("" ::"r"(a) : "memory");
  return 12 * static_cast<double>(count) / (now() - start);
}

}  // namespace longhaul::cpu
