// Whether this x86-64 processor converts float16 (F16C). Whoever asks has asked for AVX2 already, whose registers the
// operating system must save.
#pragma once
#include <cpuid.h>

namespace longhaul::cpu {

/// By CPUID (leaf 1, ECX bit 29: Intel's manual, volume 2, CPUID): clang before 19 does not take "f16c" in
/// __builtin_cpu_supports.
inline bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c >> 29 & 1) != 0;
}

}  // namespace longhaul::cpu
