// schedule: the order of the ops within one program. An op whose results are larger than what it frees waits until just
// before its first use; all else keeps the order of the joint graph, which already frees activations last-in first-out.
#include <algorithm>

#include "ir/op_definition.h"
#include "passes/pass.h"

namespace longhaul::passes {

void schedule(Graph& graph, const PassContext&) {
  const auto use = uses(graph);
  std::vector<char> is_output(graph.values.size(), 0);
  for (const auto& output : graph.outputs) is_output[static_cast<std::size_t>(output.value)] = 1;
  const auto bytes = [&](ValueId id) {
    const Value& value = graph[id];
    return static_cast<std::int64_t>(size_of(value.dtype)) * local_count(value.shape, value.layout, graph.mesh);
  };

  const std::size_t n = graph.ops.size();
  std::vector<std::vector<std::size_t>> before(n);  // ops that wait for op i
  std::vector<char> waits(n, 0);
  for (std::size_t i = n; i-- > 0;) {
    const Op& op = graph.ops[i];
    std::size_t first = n;
    std::int64_t made = 0, freed = 0;
    bool leaves = false;
    for (ValueId result : op.results) {
      made += bytes(result);
      leaves |= is_output[static_cast<std::size_t>(result)] != 0;
      if (!use[static_cast<std::size_t>(result)].empty())
        first = std::min<std::size_t>(first, static_cast<std::size_t>(use[static_cast<std::size_t>(result)].front()));
    }
    for (ValueId operand : op.operands)
      if (!is_state(graph[operand].role) && graph[operand].role != Role::data &&
          use[static_cast<std::size_t>(operand)].back() == static_cast<std::int32_t>(i))
        freed += bytes(operand);
    if (leaves || first == n || first <= i + 1 || made <= freed) continue;
    waits[i] = 1;
    before[first].push_back(i);
  }
  std::vector<Op> ops;
  ops.reserve(n);
  const auto append = [&](const auto& self, std::size_t i) -> void {
    std::sort(before[i].begin(), before[i].end());
    for (std::size_t k : before[i]) self(self, k);
    ops.push_back(std::move(graph.ops[i]));
  };
  for (std::size_t i = 0; i < n; ++i)
    if (!waits[i]) append(append, i);
  graph.ops = std::move(ops);
}

}  // namespace longhaul::passes
