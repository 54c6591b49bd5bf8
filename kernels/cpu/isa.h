// Which instruction sets this process may use.
#pragma once
#include <string_view>

namespace longhaul::cpu {

/// Each includes those before it. avx2: AVX2, FMA, F16C. avx512: F, BW, DQ, VL. avx512bf16: AVX512_BF16 besides.
enum class Isa { generic, avx2, avx512, avx512bf16 };

/// "generic", "avx2", "avx512", "avx512bf16".
std::string_view name_of(Isa isa);

/// The widest set that the processor and the operating system support, capped by LONGHAUL_ISA. Throws Error when
/// LONGHAUL_ISA names no instruction set. Reads the environment: not for use in a step.
Isa usable_isa();

/// What the processor supports, whatever LONGHAUL_ISA says.
Isa supported_isa();

}  // namespace longhaul::cpu
