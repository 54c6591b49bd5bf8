// The inner loops of every op for any processor of the build's baseline; see vector_table.h.
#define LONGHAUL_VECTOR_BYTES 16
#include "kernels/cpu/vector_all.h"

namespace longhaul::cpu {

extern const VectorTable vector_table_generic;
constinit const VectorTable vector_table_generic = make_vector_table("generic");

}  // namespace longhaul::cpu
