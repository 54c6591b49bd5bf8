// activation_memory.budget: which layers make how much again, so that a step takes the least time in the memory there
// is.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "passes/recompute.h"

namespace longhaul {

/// All plans worth a look, in the order of the memory that they need: plan 0 keeps everything; plan 1 does too, but
/// MLPs work through their rows in tiles where they can (passes/tile_mlp.cpp), as in all further ones; each of those
/// takes one step more of some layer's menu, the last makes all again that can be. The next step is the one that costs
/// least a byte; among equal ones that of the earliest layer, for the backward pass comes to it last, when least is
/// kept and most room is left for what is made again.
class ActivationPlans {
 public:
  explicit ActivationPlans(const std::vector<RecomputeMenu>& menus);

  std::size_t count() const { return order_.size() + 2; }
  /// Whether MLPs have tiles under a plan.
  static bool tiles(std::size_t plan) { return plan > 0; }
  /// How many steps of its menu each layer takes under a plan.
  std::vector<int> steps(std::size_t plan) const;
  /// What a plan makes again, as a share of the price of all layers: it never falls from plan to plan.
  double extra(std::size_t plan) const;

 private:
  static std::size_t taken(std::size_t plan) { return plan > 0 ? plan - 1 : 0; }

  struct Step {
    double worth;
    std::size_t layer;
    double price;
  };
  std::size_t layers_;
  double price_ = 0;  // of all layers
  std::vector<Step> order_;
};

/// The first plan that needs no more than `limit` bytes, by bisection; none when the last one needs more. `bytes_of`
/// compiles a plan, and is asked about 2 + log2(count) of them. A larger limit never gives a later plan, whatever gaps
/// an allocator leaves: which plans are asked for depends on the answers alone, and what fits less fits more.
std::optional<std::size_t> first_plan_within(std::int64_t limit, std::size_t plans,
                                             const std::function<std::int64_t(std::size_t plan)>& bytes_of);

}  // namespace longhaul
