// The predicted time of a step: its programs as often as it runs them, by src/cost.
#pragma once
#include <array>
#include <cstdint>
#include <span>

#include "compile/compile.h"
#include "cost/step_cost.h"

namespace longhaul {

/// Seconds of an optimizer step with so many micro-batches. Throws Error as CostModel::cost does.
ProgramCost step_cost(const CostModel& costs, const CompiledModel& model, std::int64_t accumulation_steps);
/// The same of programs whose costs are known, one a kind.
ProgramCost step_cost(std::span<const ProgramKind> kinds, std::span<const ProgramCost> costs,
                      std::int64_t accumulation_steps);

}  // namespace longhaul
