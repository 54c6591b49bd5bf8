// AVX-512 F, BW, DQ and VL.
// build: x86_64 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mavx2 -mf16c -mprefer-vector-width=512
#include "kernels/cpu/f16c.h"
#include "kernels/cpu/isa.h"

namespace longhaul::cpu {

extern const VectorTable vector_table_avx512;
extern const AttentionTileKernels attention_avx512_float32, attention_avx512_bfloat16;
extern const PeakBurst peak_float32_avx512;

namespace {

bool supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("avx2") && has_f16c();
}

const InstructionSetRegistration avx512({.name = "avx512",
                                         .order = 30,
                                         .supported = supported,
                                         .vectors = &vector_table_avx512,
                                         .attention_float32 = &attention_avx512_float32,
                                         .attention_bfloat16 = &attention_avx512_bfloat16,
                                         .peak_float32 = &peak_float32_avx512});

}  // namespace
}  // namespace longhaul::cpu
