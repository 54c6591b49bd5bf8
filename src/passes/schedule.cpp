// schedule: the order of the ops within one program. An op whose results are larger than what it frees waits until just
// before its first use; all else keeps the order of the joint graph, which already frees activations last-in first-out.
#include <algorithm>

#include "ir/rewrite.h"
#include "passes/pass.h"

namespace longhaul::passes {

void schedule(Graph& graph, const PassContext&) {
  const auto use = uses(graph);
  std::vector<char> is_output(graph.values.size(), 0);
  for (const auto& output : graph.outputs) is_output[static_cast<std::size_t>(output.value)] = 1;

  const std::size_t n = graph.ops.size();
  std::vector<std::size_t> place(n);  // where op i runs: just before the op of this index that does not wait
  std::vector<std::vector<std::size_t>> before(n);  // the ops that run there, descending
  for (std::size_t i = n; i-- > 0;) {
    const Op& op = graph.ops[i];
    place[i] = i;
    std::size_t first = n;
    std::int64_t made = 0, freed = 0;
    bool leaves = false;
    for (ValueId result : op.results) {
      made += local_bytes(graph, result);
      leaves |= is_output[static_cast<std::size_t>(result)] != 0;
      for (std::int32_t user : use[static_cast<std::size_t>(result)])
        first = std::min(first, place[static_cast<std::size_t>(user)]);
    }
    for (ValueId operand : op.operands)
      if (!is_state(graph[operand].role) && graph[operand].role != Role::data &&
          use[static_cast<std::size_t>(operand)].back() == static_cast<std::int32_t>(i))
        freed += local_bytes(graph, operand);
    if (leaves || first == n || first <= i + 1 || made <= freed) continue;
    place[i] = first;
    before[first].push_back(i);
  }
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < n; ++i) {
    if (place[i] != i) continue;
    order.insert(order.end(), before[i].rbegin(), before[i].rend());
    order.push_back(i);
  }
  select_ops(graph, order);
}

}  // namespace longhaul::passes
