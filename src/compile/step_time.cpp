#include "compile/step_time.h"

namespace longhaul {

ProgramCost step_cost(std::span<const ProgramKind> kinds, std::span<const ProgramCost> costs,
                      std::int64_t accumulation_steps) {
  std::array<std::int64_t, program_kinds> runs{};
  runs[static_cast<std::size_t>(ProgramKind::count)] = accumulation_steps;
  for (std::int64_t i = 0; i < std::min<std::int64_t>(accumulation_steps, 3); ++i) {
    // Those between the first and the last are alike.
    const bool middle = accumulation_steps > 2 && i == 1;
    const std::int64_t which = i == 2 ? accumulation_steps - 1 : i;
    runs[static_cast<std::size_t>(accumulate_kind(which, accumulation_steps))] += middle ? accumulation_steps - 2 : 1;
  }
  runs[static_cast<std::size_t>(ProgramKind::update)] = 1;
  ProgramCost step;
  for (std::size_t i = 0; i < kinds.size(); ++i)
    step.add(costs[i], static_cast<double>(runs[static_cast<std::size_t>(kinds[i])]));
  return step;
}

ProgramCost step_cost(const CostModel& costs, const CompiledModel& model, std::int64_t accumulation_steps) {
  std::vector<ProgramCost> each;
  for (const auto& program : model.programs) each.push_back(program_cost(costs, program->graph));
  return step_cost(model.kinds, each, accumulation_steps);
}

}  // namespace longhaul
