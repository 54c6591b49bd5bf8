// What any processor of the build's baseline can do. Attention has no tiles here: its reference loops run.
// build: any
#include "kernels/cpu/isa.h"

namespace longhaul::cpu {

extern const VectorTable vector_table_generic;
extern const PeakBurst peak_float32_generic;

namespace {
const InstructionSetRegistration generic({.name = "generic",
                                          .order = 0,
                                          .supported = [] { return true; },
                                          .vectors = &vector_table_generic,
                                          .peak_float32 = &peak_float32_generic});
}  // namespace

}  // namespace longhaul::cpu
