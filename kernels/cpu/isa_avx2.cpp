// AVX2, FMA and F16C.
// build: x86_64 -mavx2 -mfma -mf16c
#include "kernels/cpu/f16c.h"
#include "kernels/cpu/isa.h"

namespace longhaul::cpu {

extern const VectorTable vector_table_avx2;
extern const AttentionTileKernels attention_avx2_float32, attention_avx2_bfloat16;
extern const PeakBurst peak_float32_avx2;

namespace {

bool supported() {  // asks the operating system too (XGETBV), which must save the registers
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

const InstructionSetRegistration avx2({.name = "avx2",
                                       .order = 20,
                                       .supported = supported,
                                       .vectors = &vector_table_avx2,
                                       .attention_float32 = &attention_avx2_float32,
                                       .attention_bfloat16 = &attention_avx2_bfloat16,
                                       .peak_float32 = &peak_float32_avx2});

}  // namespace
}  // namespace longhaul::cpu
