#include "cost/step_cost.h"

#include <algorithm>

#include "ir/op_definition.h"

namespace longhaul {

double ProgramCost::total() const {
  double sum = 0;
  for (const double one : seconds) sum += one;
  return sum;
}

void ProgramCost::add(const ProgramCost& other, double times) {
  for (std::size_t i = 0; i < seconds.size(); ++i) {
    seconds[i] += times * other.seconds[i];
    hidden[i] += times * other.hidden[i];
  }
  for (const auto& [op, time] : other.ops) ops[op] += times * time;
}

ProgramCost program_cost(const CostModel& model, const Graph& graph) {
  ProgramCost sum;
  double now = 0;
  std::map<std::string_view, double> link_free;  // by queue
  std::array<double, works> wire_free{};
  struct Started {
    OpCost cost;
    double done = 0;
  };
  std::map<ValueId, Started> started;  // by first staging value
  const auto spend = [&](const Op& op, Work work, double seconds) {
    now += seconds;
    sum.seconds[static_cast<std::size_t>(work)] += seconds;
    sum.ops[std::string(op.definition->communication ? pair_name(op) : op.definition->name)] += seconds;
  };
  for (const Op& op : graph.ops) {
    const OpCost one = model.cost(graph, op);
    if (!op.definition->communication || op.definition->half == Half::none) {
      spend(op, one.work, one.seconds);
    } else if (op.definition->half == Half::start) {
      double &link = link_free[op.definition->queue], &wire = wire_free[static_cast<std::size_t>(one.work)];
      link = wire = std::max({now, link, wire}) + one.seconds;
      started[op.results[0]] = {one, link};
    } else {
      const Started& start = started.at(op.operands[0]);
      const double waiting = std::max(0.0, start.done - now);
      spend(op, start.cost.work, waiting);
      sum.hidden[static_cast<std::size_t>(start.cost.work)] += start.cost.seconds - waiting;
    }
  }
  return sum;
}

}  // namespace longhaul
