#include "plan/mesh.h"

#include <numeric>

#include "base/error.h"
#include "plan/token_placement.h"

namespace longhaul {
namespace {

// The axes that split a sequence and have more than one rank; `outer`: only those whose ranks keep their queries.
enum class Part { all, outer };
AxisList live_axes(const Mesh& mesh, const CompileOptions& options, Part part) {
  AxisList axes;
  for (const auto& name : options.sequence_axes) {
    const int axis = mesh.find(name);
    if (axis >= 0 && mesh.size(axis) > 1 && (part == Part::all || name != "ulysses")) axes.push_back(axis);
  }
  return axes;
}

// Slots [first, first + slots) of the buffers of all ranks laid together.
std::vector<std::int32_t> indices(const Mesh& mesh, const CompileOptions& options, std::int64_t padded,
                                  std::int64_t first, std::int64_t slots) {
  LONGHAUL_CHECK(options.token_order != TokenOrder::permuted, "a permuted order comes from the loader");
  std::vector<std::int32_t> order(static_cast<std::size_t>(slots));
  std::iota(order.begin(), order.end(), static_cast<std::int32_t>(first));
  if (options.token_order == TokenOrder::contiguous) return order;
  // Rank i of n outer ranks holds chunks i and 2n - 1 - i; inner ranks share them in order.
  const std::int64_t n = mesh.count(live_axes(mesh, options, Part::outer)), chunk = padded / (2 * n);
  if (n == 1) return order;
  for (auto& index : order) {
    const std::int64_t i = index / (2 * chunk), within = index % (2 * chunk);
    index = static_cast<std::int32_t>(within < chunk ? i * chunk + within : (2 * n - 1 - i) * chunk + within - chunk);
  }
  return order;
}

// The axes from the last on until they make up a shard group; the axes before them hold copies.
void place_shard_group(const ResolvedParallelism& parallel, std::vector<MeshAxis>& axes, CompileOptions& options) {
  options.replica_axes.clear();
  if (parallel.shard_group == 0) return;
  int left = static_cast<int>(parallel.shard_group);
  for (std::size_t i = axes.size(); i-- > 0;) {
    if (left == 1) {
      options.replica_axes.insert(options.replica_axes.begin(), axes[i].name);
      continue;
    }
    if (left % axes[i].size == 0) {
      left /= axes[i].size;
      continue;
    }
    LONGHAUL_CHECK(i == 0 && axes[0].size % left == 0, "a shard group of {} ranks", parallel.shard_group);
    axes[0] = {"dp_inner", left};
    axes.insert(axes.begin(), {"dp_outer", static_cast<int>(parallel.data) / left});
    options.batch_axes = {"dp_outer", "dp_inner"};
    options.replica_axes = {"dp_outer"};
    return;
  }
}

}  // namespace

Mesh place_ranks(const ResolvedParallelism& parallel, CompileOptions& options) {
  options.zero_stage = static_cast<int>(parallel.zero_stage);
  options.batch_axes = {"dp"};
  options.sequence_axes = {"ring", "gather", "ulysses"};
  options.token_order = parallel.token_order == SequenceOrder::zigzag     ? TokenOrder::zigzag
                        : parallel.token_order == SequenceOrder::balanced ? TokenOrder::permuted
                                                                          : TokenOrder::contiguous;
  std::vector<MeshAxis> axes = {{"dp", static_cast<int>(parallel.data)},
                                {"ring", static_cast<int>(parallel.ring)},
                                {"gather", static_cast<int>(parallel.gather)},
                                {"ulysses", static_cast<int>(parallel.ulysses)}};
  place_shard_group(parallel, axes, options);
  return Mesh(axes);
}

std::int64_t padded_sequence(const ResolvedParallelism& parallel, std::int64_t sequence) {
  const std::int64_t chunks = parallel.token_order == SequenceOrder::zigzag     ? 2
                              : parallel.token_order == SequenceOrder::balanced ? permuted_chunks
                                                                                : 1;
  const std::int64_t unit = parallel.outer() * std::lcm(chunks, parallel.ulysses);
  return (sequence + unit - 1) / unit * unit;
}

std::string describe(const ResolvedParallelism& parallel) {
  std::string text = fmt::format("{} ranks = data {}", parallel.data * parallel.sequence(), parallel.data);
  if (parallel.ring > 1) text += fmt::format(" x ring {}", parallel.ring);
  if (parallel.gather > 1) text += fmt::format(" x gather_kv {}", parallel.gather);
  if (parallel.ulysses > 1 || parallel.outer() == 1) text += fmt::format(" x ulysses {}", parallel.ulysses);
  if (parallel.outer() > 1)
    text += parallel.token_order == SequenceOrder::zigzag     ? ", zigzag order"
            : parallel.token_order == SequenceOrder::balanced ? ", balanced order"
                                                              : ", contiguous order";
  text += fmt::format(", zero_stage {}", parallel.zero_stage);
  return parallel.shard_group ? text + fmt::format(" in groups of {}", parallel.shard_group) : text;
}

std::vector<std::int32_t> token_order(const Mesh& mesh, const CompileOptions& options, std::int64_t padded, int rank) {
  const AxisList sequence = live_axes(mesh, options, Part::all);
  const std::int64_t slots = padded / mesh.count(sequence);
  return indices(mesh, options, padded, mesh.index(sequence, rank) * slots, slots);
}

std::vector<std::int32_t> whole_token_order(const Mesh& mesh, const CompileOptions& options, std::int64_t padded) {
  return indices(mesh, options, padded, 0, padded);
}

}  // namespace longhaul
