// Seconds of programs and of a step: the sum of their ops, one after the other. Nothing is taken to happen beside
// something else, as no executor does that.
#pragma once
#include <array>
#include <span>
#include <string>

#include "cost/op_cost.h"

namespace longhaul {

struct ProgramCost {
  std::array<double, works> seconds{};
  std::map<std::string, double> ops;  ///< by op name
  double total() const;
  void add(const ProgramCost& other, double times);
};

/// Of one run of a graph after all passes. Throws Error as CostModel::cost does.
ProgramCost program_cost(const CostModel& model, const Graph& graph);

}  // namespace longhaul
