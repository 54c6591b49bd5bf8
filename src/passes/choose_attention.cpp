// choose_attention: how each attention op gets whole key sequences when the sequence is split. The mesh names the
// strategies; ops with a window may use its axes as those of other names (Placement::window_axes):
//
//   ulysses (arXiv 2309.14509): heads are independent; q, k, v are exchanged from split-by-sequence to split-by-head,
//   the output back.
//
//   gather: queries stay; keys and values are gathered and kept for backward; their gradients are partial sums,
//   reduce-scattered in float32.
//
//   ring (arXiv 2310.01889): queries stay; keys and values pass round, and again for backward (expand_ring writes the
//   steps).
//
// Where a window reaches only some rows of the other ranks' keys, ring and gather move just those (expand_window). Axes
// may be combined: ulysses inside, ring or gather outside. Partition turns the choice into collectives. KV heads that
// do not divide by the ulysses ranks are repeated until they do; their gradients are summed back.
#include <map>

#include "base/error.h"
#include "ir/rewrite.h"
#include "passes/pass.h"
#include "passes/token_order.h"

namespace longhaul::passes {
namespace {

// The smallest number of copies after which kv_heads divide by `ranks` and still group the query heads evenly.
std::int64_t copies_needed(std::int64_t heads, std::int64_t kv_heads, std::int64_t ranks) {
  for (std::int64_t copies = 1; kv_heads * copies <= heads; ++copies)
    if (kv_heads * copies % ranks == 0 && heads % (kv_heads * copies) == 0) return copies;
  return heads / kv_heads;
}

// The axes over which one op splits its heads, its queries and its keys, and whether keys that travel are kept.
struct Split {
  AxisList heads, queries, keys;
  bool keeps = false;
};

class Choice {
 public:
  Choice(const Graph& graph, const Placement& placement) : mesh_(graph.mesh), placement_(placement) {}

  /// For attention of `keys` keys with this window (0: none).
  const Split& of(std::int64_t keys, std::int64_t window) {
    const auto [found, added] = splits_.try_emplace({keys, window});
    if (added) found->second = make(keys, window);
    return found->second;
  }

 private:
  Split make(std::int64_t keys, std::int64_t window) const {
    Split split;
    const AxisList axes = mesh_.axes(placement_.sequence_axes);
    for (int i = 0; i < axes.size(); ++i) {
      const int axis = axes[i];
      const std::string& name = mesh_.axes()[static_cast<std::size_t>(axis)].name;
      const auto other = window > 0 ? placement_.window_axes.find(name) : placement_.window_axes.end();
      const std::string& strategy = other == placement_.window_axes.end() ? name : other->second;
      if (strategy == "ulysses") split.heads.push_back(axis);
      if (strategy == "gather" || strategy == "ring") split.queries.push_back(axis);
      if (strategy == "ring") split.keys.push_back(axis);
    }
    LONGHAUL_CHECK(split.keys.empty() || split.keys == split.queries, "ring and gather of one attention");
    if (window > 0 && !split.queries.empty() && split.keys.empty() &&
        reached_rows(placement_.token_order, order_ranks(mesh_, placement_), keys, mesh_.count(split.queries),
                     window)) {
      split.keys = split.queries;
      split.keeps = true;
    }
    return split;
  }

  const Mesh& mesh_;
  const Placement& placement_;
  std::map<std::pair<std::int64_t, std::int64_t>, Split> splits_;
};

}  // namespace

void choose_attention(Graph& graph, const PassContext& context) {
  Choice choice(graph, context.options.placement);
  Builder builder(graph, "choose_attention");
  std::vector<ValueId> expanded(graph.values.size(), no_value);
  rewrite(builder, [&](Op& op) {
    const bool backward = op.is("attention_gradient");
    if (!backward && !op.is("attention")) return graph.ops.push_back(std::move(op));
    const Split& split = choice.of(graph[op.operands[1]].shape[1], op.attributes.integer("window"));
    if (split.heads.empty() && split.queries.empty()) return graph.ops.push_back(std::move(op));
    const std::int64_t ranks = graph.mesh.count(split.heads), heads = graph[op.operands[0]].shape[2],
                       kv_heads = graph[op.operands[1]].shape[2];
    if (heads % ranks)
      fail(
          "parallelism.{}: layer {} has {} query heads, which do not divide over {} ranks; use a number that divides "
          "them",
          op.attributes.integer("window") > 0 && !context.options.placement.window_axes.empty() ? "window_layers"
                                                                                                : "sequence",
          op.layer, heads, ranks);
    LetterSplits marks;
    for (const auto& [letter, axes] :
         {std::pair('g', split.heads), {'h', split.heads}, {'s', split.queries}, {'t', split.keys}})
      if (!axes.empty()) marks.set(letter, {axes, 0});
    op.attributes.set("split", marks);
    if (split.keeps) op.attributes.set("keeps_keys", std::int64_t{1});
    op.made_by = "choose_attention";
    const std::int64_t copies = copies_needed(heads, kv_heads, ranks);
    std::vector<std::pair<ValueId, ValueId>> reductions;  // gradient of the copies, gradient of the KV heads
    if (copies > 1)
      for (std::size_t i : {1u, 2u}) {
        const auto kv = static_cast<std::size_t>(op.operands[i]);
        Shape shape = graph[op.operands[i]].shape;
        shape[2] = kv_heads * copies;
        if (expanded[kv] == no_value)
          expanded[kv] = builder.one("expand_heads", {op.operands[i]}, {}, {.result_shapes = {shape}});
        op.operands[i] = expanded[kv];
        if (backward) {
          const ValueId gradient = op.results[i];
          op.results[i] = graph.add_value("", shape, graph[gradient].dtype);
          graph[op.results[i]].primal = op.operands[i];
          reductions.push_back({op.results[i], gradient});
        }
      }
    // Partial sums over the ranks that hold other queries: in float32 until they are whole.
    std::vector<std::pair<ValueId, ValueId>> rounded;  // wide, narrow
    if (backward && !split.queries.empty() && split.keys.empty())
      for (const std::size_t i : {1u, 2u}) {
        const Value narrow = graph[op.results[i]];
        if (size_of(narrow.dtype) >= size_of(DType::float32)) continue;
        const ValueId wide = graph.add_value(narrow.name, narrow.shape, DType::float32);
        graph[wide].primal = narrow.primal;
        rounded.push_back({wide, op.results[i]});
        op.results[i] = wide;
      }
    graph.ops.push_back(std::move(op));
    for (const auto& [wide, narrow] : rounded) {
      builder.cast(wide, graph[narrow].dtype);
      graph.ops.back().results = {narrow};
    }
    for (const auto& [copy_gradient, gradient] : reductions) {
      builder.one("reduce_heads", {copy_gradient}, {},
                  {.result_shapes = {graph[gradient].shape}, .result_types = {graph[gradient].dtype}});
      graph.ops.back().results = {gradient};
    }
  });
}

}  // namespace longhaul::passes
