// The inner loops of every op for AVX2; see vector_table.h.
#define LONGHAUL_VECTOR_BYTES 32
#include "kernels/cpu/vector_all.h"

namespace longhaul::cpu {

extern const VectorTable vector_table_avx2;
constinit const VectorTable vector_table_avx2 = make_vector_table("avx2");

}  // namespace longhaul::cpu
