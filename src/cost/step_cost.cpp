#include "cost/step_cost.h"

#include "ir/op_definition.h"

namespace longhaul {

double ProgramCost::total() const {
  double sum = 0;
  for (const double one : seconds) sum += one;
  return sum;
}

void ProgramCost::add(const ProgramCost& other, double times) {
  for (std::size_t i = 0; i < seconds.size(); ++i) seconds[i] += times * other.seconds[i];
  for (const auto& [op, time] : other.ops) ops[op] += times * time;
}

ProgramCost program_cost(const CostModel& model, const Graph& graph) {
  ProgramCost sum;
  for (const Op& op : graph.ops) {
    const OpCost one = model.cost(graph, op);
    sum.seconds[static_cast<std::size_t>(one.work)] += one.seconds;
    sum.ops[op.definition->name] += one.seconds;
  }
  return sum;
}

}  // namespace longhaul
