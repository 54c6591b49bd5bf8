#include "kernels/cpu/isa.h"

#include <algorithm>
#include <string>

#include "base/environment.h"
#include "base/error.h"

namespace longhaul::cpu {
namespace {

std::vector<InstructionSet>& registry() {
  static std::vector<InstructionSet> sets;
  return sets;
}

/// The largest order that LONGHAUL_ISA allows.
int allowed_order() {
  const std::string asked = environment("LONGHAUL_ISA");
  if (asked.empty()) return instruction_sets().front().order;
  std::string names;
  for (const InstructionSet& set : instruction_sets()) {
    if (asked == set.name) return set.order;
    names += (names.empty() ? "" : ", ") + std::string(set.name);
  }
  fail("LONGHAUL_ISA is '{}'; it must be one of {}, or unset for the widest that the CPU has", asked, names);
}

}  // namespace

InstructionSetRegistration::InstructionSetRegistration(const InstructionSet& set) {
  auto& sets = registry();
  const auto place =
      std::find_if(sets.begin(), sets.end(), [&](const auto& other) { return other.order <= set.order; });
  LONGHAUL_CHECK(place == sets.end() || place->order != set.order, "instruction sets {} and {} are both number {}",
                 set.name, place->name, set.order);
  sets.insert(place, set);
}

const std::vector<InstructionSet>& instruction_sets() {
  return registry();
}

bool usable(const InstructionSet& set) {
  return set.order <= allowed_order() && set.supported();
}

const InstructionSet& usable_isa() {
  for (const InstructionSet& set : instruction_sets())
    if (usable(set)) return set;
  LONGHAUL_CHECK(false, "no instruction set is usable, not even generic");
}

}  // namespace longhaul::cpu
