#include "plan/mesh.h"

#include <numeric>

#include "base/error.h"
#include "passes/token_order.h"
#include "plan/token_placement.h"

namespace longhaul {
namespace {

// Slots [first, first + slots) of the buffers of all ranks laid together.
std::vector<std::int32_t> indices(const Mesh& mesh, const Placement& placement, std::int64_t padded, std::int64_t first,
                                  std::int64_t slots) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(slots));
  for (const TokenRun& run : token_runs(placement.token_order, order_ranks(mesh, placement), padded, first, slots))
    std::iota(order.begin() + (run.slot - first), order.begin() + (run.slot - first + run.length),
              static_cast<std::int32_t>(run.index));
  return order;
}

// The axes from the last on until they make up a shard group; the axes before them hold copies.
void place_shard_group(const ResolvedParallelism& parallel, std::vector<MeshAxis>& axes, Placement& placement) {
  if (parallel.shard_group == 0) return;
  int left = static_cast<int>(parallel.shard_group);
  for (std::size_t i = axes.size(); i-- > 0;) {
    if (left == 1) {
      placement.replica_axes.insert(placement.replica_axes.begin(), axes[i].name);
      continue;
    }
    if (left % axes[i].size == 0) {
      left /= axes[i].size;
      continue;
    }
    LONGHAUL_CHECK(i == 0 && axes[0].size % left == 0, "a shard group of {} ranks", parallel.shard_group);
    axes[0] = {"dp_inner", left};
    axes.insert(axes.begin(), {"dp_outer", static_cast<int>(parallel.data) / left});
    placement.batch_axes = {"dp_outer", "dp_inner"};
    placement.replica_axes = {"dp_outer"};
    return;
  }
}

}  // namespace

Mesh place_ranks(const ResolvedParallelism& parallel, Placement& placement) {
  placement = {.batch_axes = {"dp"},
               .sequence_axes = {"ring", "gather", "ulysses"},
               .token_order = parallel.token_order,
               .sharded = state_placement(static_cast<int>(parallel.zero_stage))};
  if (const auto& window = parallel.window_layers) {
    // Its Ulysses ranks are none, the innermost axis, or all.
    const std::string outer = window->gather_kv > 1 ? "gather" : "ring";
    for (const std::string axis : {"ring", "gather", "ulysses"}) {
      const bool heads = window->ulysses == window->ranks() || (axis == "ulysses" && window->ulysses > 1);
      if (const std::string strategy = heads ? "ulysses" : outer; strategy != axis)
        placement.window_axes[axis] = strategy;
    }
  }
  std::vector<MeshAxis> axes = {{"dp", static_cast<int>(parallel.data)},
                                {"ring", static_cast<int>(parallel.ring)},
                                {"gather", static_cast<int>(parallel.gather)},
                                {"ulysses", static_cast<int>(parallel.ulysses)}};
  place_shard_group(parallel, axes, placement);
  return Mesh(axes);
}

std::int64_t padded_sequence(const ResolvedParallelism& parallel, std::int64_t sequence) {
  const std::int64_t unit = parallel.outer() * std::lcm(chunks_of(parallel.token_order), parallel.ulysses);
  return (sequence + unit - 1) / unit * unit;
}

std::string describe(const ResolvedParallelism& parallel) {
  std::string text = fmt::format("{} ranks = data {}", parallel.data * parallel.sequence(), parallel.data);
  if (parallel.ring > 1) text += fmt::format(" x ring {}", parallel.ring);
  if (parallel.gather > 1) text += fmt::format(" x gather_kv {}", parallel.gather);
  if (parallel.ulysses > 1 || parallel.outer() == 1) text += fmt::format(" x ulysses {}", parallel.ulysses);
  if (parallel.outer() > 1) text += fmt::format(", {} order", name_of(parallel.token_order));
  if (parallel.window_layers) text += ", layers with a window " + text_of(*parallel.window_layers);
  text += fmt::format(", zero_stage {}", parallel.zero_stage);
  return parallel.shard_group ? text + fmt::format(" in groups of {}", parallel.shard_group) : text;
}

std::vector<std::int32_t> token_order(const Mesh& mesh, const Placement& placement, std::int64_t padded, int rank) {
  const AxisList sequence = mesh.axes(placement.sequence_axes);
  const std::int64_t slots = padded / mesh.count(sequence);
  return indices(mesh, placement, padded, mesh.index(sequence, rank) * slots, slots);
}

std::vector<std::int32_t> whole_token_order(const Mesh& mesh, const Placement& placement, std::int64_t padded) {
  return indices(mesh, placement, padded, 0, padded);
}

}  // namespace longhaul
