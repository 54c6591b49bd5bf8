// The inner loops of every op for AVX512 with AVX512_BF16, which rounds to bfloat16 in one instruction; see
// vector_table.h.
#define LONGHAUL_VECTOR_BYTES 64
#include "kernels/cpu/vector_all.h"

namespace longhaul::cpu {

extern const VectorTable vector_table_avx512bf16;
constinit const VectorTable vector_table_avx512bf16 = make_vector_table("avx512bf16");

}  // namespace longhaul::cpu
