// What the backward pass of a layer can make again instead of finding it kept, and in which order that is worth it.
#pragma once
#include <cstdint>
#include <vector>

#include "ir/graph.h"
#include "passes/options.h"

namespace longhaul {

/// One more value of a layer that its backward pass makes again. Steps are taken in order: the next is the one that
/// costs least for what it saves, given those before it.
struct RecomputeStep {
  ValueId value = no_value;
  std::int64_t bytes = 0;  ///< of a rank, no longer kept from forward to backward
  double price = 0;        ///< what its ops cost besides those of the steps before (see below)
  double worth = 0;        ///< the largest price of a byte up to this step: never less than the step's before
  bool dear = false;       ///< it takes an op that is too dear to be made twice unless a budget asks for it: attention
};

/// What a layer saves and what it could make again.
struct RecomputeMenu {
  std::int32_t layer = -1;
  double price = 0;             ///< of the layer's forward and backward pass
  std::int64_t kept_bytes = 0;  ///< that its backward pass reads of its forward pass when nothing is made again
  std::vector<RecomputeStep> steps;
  /// How many steps cost no more together than this share of the layer's price.
  int within(double share) const;
};

/// The menus of all layers of a placed accumulate program, by layer. A price is the time of an op: in seconds where the
/// schedule knows them, else in FLOPs: its own, or
/// those that the machine could do (Schedule::flops_per_byte) while it moves the op's operands and results; what ranks
/// exchange counts eight times, for links are slower than memory.
std::vector<RecomputeMenu> recompute_menus(const Graph& graph, const Schedule& schedule);

/// How many steps of its menu a layer takes under a schedule.
int recompute_steps(const RecomputeMenu& menu, const Schedule& schedule);

}  // namespace longhaul
