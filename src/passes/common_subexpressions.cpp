// cse: equal ops of one phase and layer become one, so that a tensor is gathered or exchanged once; then dead ops go.
#include <unordered_map>

#include "ir/rewrite.h"
#include "passes/pass.h"

namespace longhaul::passes {
namespace {

std::size_t mix(std::size_t seed, std::size_t value) {
  return seed ^ (value + 0x9e3779b97f4a7c15ull + (seed << 6) + (seed >> 2));
}

std::size_t hash(const Op& op) {
  std::size_t seed = std::hash<const void*>()(op.definition);
  seed = mix(seed, static_cast<std::size_t>(op.phase) * 1000003 + static_cast<std::size_t>(op.layer + 1));
  for (ValueId operand : op.operands) seed = mix(seed, static_cast<std::size_t>(operand));
  return seed;
}

bool equal(const Graph& graph, const Op& a, const Op& b) {
  if (a.definition != b.definition || a.phase != b.phase || a.layer != b.layer || a.operands != b.operands ||
      a.signature->text != b.signature->text || !(a.attributes == b.attributes) || a.results.size() != b.results.size())
    return false;
  for (std::size_t i = 0; i < a.results.size(); ++i) {
    const Value &x = graph[a.results[i]], &y = graph[b.results[i]];
    if (x.shape != y.shape || x.dtype != y.dtype || !(x.layout == y.layout)) return false;
  }
  return true;
}

}  // namespace

void common_subexpressions(Graph& graph, const PassContext&) {
  std::unordered_multimap<std::size_t, std::size_t> seen;
  std::vector<ValueId> same(graph.values.size(), no_value);
  rewrite(graph, [&](Op& op) {
    for (ValueId& operand : op.operands)
      if (same[static_cast<std::size_t>(operand)] != no_value) operand = same[static_cast<std::size_t>(operand)];
    const std::size_t key = hash(op);
    const auto [begin, end] = seen.equal_range(key);
    bool found = false;
    for (auto it = begin; it != end && !found; ++it) {
      const Op& first = graph.ops[it->second];
      if (!equal(graph, first, op)) continue;
      found = true;
      for (std::size_t i = 0; i < op.results.size(); ++i) {
        same[static_cast<std::size_t>(op.results[i])] = first.results[i];
        if (graph[op.results[i]].pinned) graph[first.results[i]].pinned = graph[op.results[i]].pinned;
      }
    }
    if (found) return;
    seen.insert({key, graph.ops.size()});
    graph.ops.push_back(std::move(op));
  });
  for (auto& output : graph.outputs)
    if (same[static_cast<std::size_t>(output.value)] != no_value)
      output.value = same[static_cast<std::size_t>(output.value)];
  remove_dead_ops(graph);
}

}  // namespace longhaul::passes
