#include "ir/rewrite.h"

namespace longhaul {

void select_ops(Graph& graph, const std::vector<std::size_t>& indices) {
  std::vector<Op> ops;
  ops.reserve(indices.size());
  for (const std::size_t i : indices) ops.push_back(std::move(graph.ops[i]));
  graph.ops = std::move(ops);
}

int remove_dead_ops(Graph& graph) {
  const std::size_t before = graph.ops.size();
  std::vector<char> live(graph.values.size(), 0), keep(before, 0);
  for (const auto& output : graph.outputs) live[static_cast<std::size_t>(output.value)] = 1;
  for (std::size_t i = before; i-- > 0;) {
    for (ValueId result : graph.ops[i].results) keep[i] |= live[static_cast<std::size_t>(result)];
    if (keep[i])
      for (ValueId operand : graph.ops[i].operands) live[static_cast<std::size_t>(operand)] = 1;
  }
  std::vector<std::size_t> kept;
  for (std::size_t i = 0; i < before; ++i)
    if (keep[i]) kept.push_back(i);
  select_ops(graph, kept);
  return static_cast<int>(before - kept.size());
}

void substitute(Graph& graph, std::vector<ValueId>& substitution) {
  substitution.resize(graph.values.size(), no_value);
  const auto follow = [&](ValueId& value) {
    while (substitution[static_cast<std::size_t>(value)] != no_value)
      value = substitution[static_cast<std::size_t>(value)];
  };
  for (auto& op : graph.ops)
    for (ValueId& operand : op.operands) follow(operand);
  for (auto& output : graph.outputs) follow(output.value);
}

}  // namespace longhaul
