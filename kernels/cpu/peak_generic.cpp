// The float32 peak of the build's baseline.
#include "kernels/cpu/peak.h"

namespace longhaul::cpu {
namespace {

// Eight chains of four floats: what any x86-64 can do without fused operations.
void run(std::int64_t iterations) {
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

}  // namespace

extern const PeakBurst peak_float32_generic;
constinit const PeakBurst peak_float32_generic = {8 * 4 * 2, run};

}  // namespace longhaul::cpu
