#include "kernels/cpu/isa.h"

#include <algorithm>
#include <string>

#include "base/environment.h"
#include "base/error.h"

namespace longhaul::cpu {

std::string_view name_of(Isa isa) {
  switch (isa) {
    case Isa::generic:
      return "generic";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512bf16:
      return "avx512bf16";
  }
  return "?";
}

Isa supported_isa() {
#if defined(__x86_64__)
  // These ask the operating system too (XGETBV), so that its registers are saved.
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c"))
    return Isa::generic;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
    return Isa::avx2;
  return __builtin_cpu_supports("avx512bf16") ? Isa::avx512bf16 : Isa::avx512;
#else
  return Isa::generic;
#endif
}

Isa usable_isa() {
  const std::string asked = environment("LONGHAUL_ISA");
  if (asked.empty()) return supported_isa();
  for (Isa isa : {Isa::generic, Isa::avx2, Isa::avx512, Isa::avx512bf16})
    if (asked == name_of(isa)) return std::min(isa, supported_isa());
  fail("LONGHAUL_ISA is '{}'; it must be avx512bf16, avx512, avx2 or generic, or unset for the widest that the CPU has",
       asked);
}

}  // namespace longhaul::cpu
