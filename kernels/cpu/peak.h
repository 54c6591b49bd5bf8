// What one core of this machine can do, measured: the yardstick for every kernel. Cores are shared and clocks move, so
// measure bursts between the runs of a kernel and take the median of the ratios. Time is the thread's CPU time, so that
// a neighbour does not lower the peak.
#pragma once
#include <cstddef>
#include <cstdint>

namespace longhaul::cpu {

/// Float32 operations a second (a fused multiply-add counts two) of the calling thread in a burst of about `seconds`,
/// on the widest instruction set that is usable (isa.h).
double measure_float32_peak(double seconds = 1e-3);

/// The same for the dot products of bfloat16 pairs (vdpbf16ps); 0 when no usable set has them.
double measure_bfloat16_peak(double seconds = 1e-3);

/// Bytes a second of one pass of the triad a[i] = b[i] + 3 c[i] over arrays of `count` floats: 12 bytes an element are
/// counted, two numbers read and one written (not the line that a plain store reads first). The arrays should exceed
/// the last-level cache several times over and have been touched.
double measure_triad(float* a, const float* b, const float* c, std::int64_t count);

/// Bursts: `iterations` times `operations_an_iteration` operations, nothing else. peak_<isa>.cpp, named in
/// isa_<isa>.cpp; none may run on a processor without its instruction set.
struct PeakBurst {
  double operations_an_iteration;
  void (*run)(std::int64_t iterations);
};

}  // namespace longhaul::cpu
