#include "kernels/cpu/vector_table.h"

#include <string_view>

#include "base/error.h"
#include "kernels/cpu/isa.h"

namespace longhaul::cpu {

const VectorTable* vector_table(const char* name) {
  for (const InstructionSet& set : instruction_sets())
    if (set.vectors && set.name == std::string_view(name) && set.supported()) return set.vectors;
  return nullptr;
}

const VectorTable& vector_table() {
  static const VectorTable& best = []() -> const VectorTable& {
    for (const InstructionSet& set : instruction_sets())
      if (set.vectors && usable(set)) return *set.vectors;
    LONGHAUL_CHECK(false, "no instruction set has vector loops, not even generic");
  }();
  return best;
}

}  // namespace longhaul::cpu
