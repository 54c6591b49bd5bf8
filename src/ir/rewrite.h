// Rewriting a graph's list of ops: what passes have in common, so that each says only what it changes.
#pragma once
#include <utility>
#include <vector>

#include "ir/builder.h"

namespace longhaul {

/// Takes all ops out of the graph and calls visit(Op&) for each, in order. The visitor appends to graph.ops what is to
/// stand there: the op itself (std::move(op)), others, or nothing.
template <typename Visit>
void rewrite(Graph& graph, Visit&& visit) {
  std::vector<Op> ops;
  ops.swap(graph.ops);
  graph.ops.reserve(ops.size());
  for (Op& op : ops) visit(op);
}

/// The same, with the builder set to each op's phase and layer before it is visited.
template <typename Visit>
void rewrite(Builder& builder, Visit&& visit) {
  rewrite(builder.graph(), [&](Op& op) {
    builder.at(op);
    visit(op);
  });
}

/// Behind the op of each result for which wants(const Op&, ValueId result) holds: what make(ValueId result) emits. All
/// later ops, and outputs, that read the result read the value that `make` returns instead. Returns how many.
template <typename Wants, typename Make>
int insert_behind(Builder& builder, Wants&& wants, Make&& make) {
  Graph& graph = builder.graph();
  std::vector<ValueId> instead(graph.values.size(), no_value);
  const auto follow = [&](ValueId& value) {
    const auto i = static_cast<std::size_t>(value);  // what `make` emitted is read as it is
    if (i < instead.size() && instead[i] != no_value) value = instead[i];
  };
  int inserted = 0;
  rewrite(builder, [&](Op& op) {
    for (ValueId& operand : op.operands) follow(operand);
    std::vector<ValueId> wanted;
    for (const ValueId result : op.results)
      if (wants(std::as_const(op), result)) wanted.push_back(result);
    graph.ops.push_back(std::move(op));
    for (const ValueId result : wanted) {
      instead[static_cast<std::size_t>(result)] = make(result);
      ++inserted;
    }
  });
  for (auto& output : graph.outputs) follow(output.value);
  return inserted;
}

/// graph.ops becomes the ops of these indices, each at most once, in this order; those that are not named go.
void select_ops(Graph& graph, const std::vector<std::size_t>& indices);

/// Drops ops none of whose results is used or an output. Returns how many.
int remove_dead_ops(Graph& graph);

/// Replaces uses of values in operands and outputs: substitution[v] for v where it is not no_value. Chains are
/// followed.
void substitute(Graph& graph, std::vector<ValueId>& substitution);

}  // namespace longhaul
