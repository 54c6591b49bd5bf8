// AVX-512 with BF16: dot products of bfloat16 pairs, rounding in one instruction. All else runs as AVX-512.
// build: x86_64 -mavx512bf16 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mavx2 -mf16c -mprefer-vector-width=512
#include "kernels/cpu/f16c.h"
#include "kernels/cpu/isa.h"

namespace longhaul::cpu {

extern const VectorTable vector_table_avx512bf16;
extern const AttentionTileKernels attention_avx512bf16_bfloat16;
extern const PeakBurst peak_bfloat16_avx512bf16;

namespace {

bool supported() {
  return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512f") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx2") &&
         has_f16c();
}

const InstructionSetRegistration avx512bf16({.name = "avx512bf16",
                                             .order = 40,
                                             .supported = supported,
                                             .vectors = &vector_table_avx512bf16,
                                             .attention_bfloat16 = &attention_avx512bf16_bfloat16,
                                             .peak_bfloat16 = &peak_bfloat16_avx512bf16});

}  // namespace
}  // namespace longhaul::cpu
