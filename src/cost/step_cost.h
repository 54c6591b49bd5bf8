// Seconds of programs and of a step. Ops take one after the other; collectives in two halves (ir/op_definition.h) run
// beside them, one after the other on their link and on the wires that they cross.
#pragma once
#include <array>
#include <map>
#include <span>
#include <string>

#include "cost/op_cost.h"

namespace longhaul {

struct ProgramCost {
  /// By what it is spent on; of collectives what nothing hides, which is how long the waits for them take.
  std::array<double, works> seconds{};
  std::array<double, works> hidden{};  ///< of collectives, beside other work
  std::map<std::string, double> ops;   ///< by op name; of collectives what nothing hides
  /// What no schedule of the collectives goes below, with all the memory that they want: computation in this order,
  /// each collective as soon as its operands are there and those before it on its link are over.
  double least = 0;
  double total() const;
  double communication() const;  ///< what collectives take, beside computation or not
  double beside() const;         ///< of that, beside computation
  void add(const ProgramCost& other, double times);
};

/// Of one run of a graph after all passes. Throws Error as CostModel::cost does.
ProgramCost program_cost(const CostModel& model, const Graph& graph);

}  // namespace longhaul
