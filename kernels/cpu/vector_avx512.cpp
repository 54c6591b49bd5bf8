// The inner loops of every op for AVX512; see vector_table.h.
#define LONGHAUL_VECTOR_BYTES 64
#include "kernels/cpu/vector_all.h"

namespace longhaul::cpu {

extern const VectorTable vector_table_avx512;
constinit const VectorTable vector_table_avx512 = make_vector_table("avx512");

}  // namespace longhaul::cpu
