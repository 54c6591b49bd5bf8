#include "cost/step_cost.h"

#include <algorithm>

#include "ir/op_definition.h"

namespace longhaul {

double ProgramCost::total() const {
  double sum = 0;
  for (const double one : seconds) sum += one;
  return sum;
}

double ProgramCost::communication() const {
  return beside() + seconds[static_cast<std::size_t>(Work::host_links)] +
         seconds[static_cast<std::size_t>(Work::network)];
}

double ProgramCost::beside() const {
  double sum = 0;
  for (const double one : hidden) sum += one;
  return sum;
}

void ProgramCost::add(const ProgramCost& other, double times) {
  for (std::size_t i = 0; i < seconds.size(); ++i) {
    seconds[i] += times * other.seconds[i];
    hidden[i] += times * other.hidden[i];
  }
  for (const auto& [op, time] : other.ops) ops[op] += times * time;
  least += times * other.least;
}

namespace {

// ProgramCost::least. Light ops behind a collective hand its result on whenever it comes: they hold nothing up.
double least_seconds(const CostModel& model, const Graph& graph) {
  std::vector<double> there(graph.values.size(), 0);
  std::vector<char> comes(graph.values.size(), 0);  // by a collective, or light ops behind one
  std::map<std::string_view, double> link_free;
  double now = 0, last = 0;
  for (const Op& op : graph.ops) {
    const OpCost one = model.cost(graph, op);
    double begin = 0;
    bool behind = false;
    for (const ValueId operand : op.operands) {
      begin = std::max(begin, there[static_cast<std::size_t>(operand)]);
      behind |= comes[static_cast<std::size_t>(operand)] != 0;
    }
    const OpDefinition* start = op.definition->communication ? start_of(*op.definition) : nullptr;
    const bool waits = op.definition->communication && op.definition->half == Half::wait;
    const bool light = behind && !op.definition->communication && op.results.size() == 1 &&
                       (op.definition->pointwise || op.is("slice"));
    double done = begin;
    if (start) {
      double& link = link_free[start->queue];
      done = link = std::max(begin, link) + one.seconds;
    } else if (light) {
      done = begin + one.seconds;
    } else if (!waits) {
      done = now = std::max(begin, now) + one.seconds;
    }
    last = std::max(last, done);
    for (const ValueId result : op.results) {
      there[static_cast<std::size_t>(result)] = done;
      comes[static_cast<std::size_t>(result)] = start || waits || light;
    }
  }
  return last;
}

}  // namespace

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
    if (!op.definition->communication) {
      spend(op, one.work, one.seconds);
    } else if (op.definition->half == Half::none) {
      double& wire = wire_free[static_cast<std::size_t>(one.work)];
      spend(op, one.work, std::max(0.0, wire - now) + one.seconds);
      if (one.seconds > 0) wire = now;
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
  sum.least = least_seconds(model, graph);
  return sum;
}

}  // namespace longhaul
