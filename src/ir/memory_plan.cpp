#include "ir/memory_plan.h"

namespace longhaul {

std::string_view name_of(MemoryCategory category) {
  static constexpr std::string_view names[] = {"parameters",        "gradients",  "optimizer",     "data",
                                               "saved activations", "transients", "communication", "scratch"};
  return names[static_cast<std::size_t>(category)];
}

}  // namespace longhaul
