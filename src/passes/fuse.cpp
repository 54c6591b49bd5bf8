// fuse: an accumulator or residual is added by the product that makes the other addend: add(a, einsum(x, y)) ->
// einsum_add(x, y, a). Never into a partial result: the addend would count once a rank.
#include "ir/op_definition.h"
#include "passes/pass.h"

namespace longhaul::passes {

void fuse(Graph& graph, const PassContext&) {
  const auto use = uses(graph);
  const auto definition = definitions(graph);
  std::vector<char> is_output(graph.values.size(), 0);
  for (const auto& output : graph.outputs) is_output[static_cast<std::size_t>(output.value)] = 1;
  std::vector<char> gone(graph.ops.size(), 0);
  for (std::size_t i = 0; i < graph.ops.size(); ++i) {
    Op& add = graph.ops[i];
    if (!add.is("add") || add.operands.size() != 2) continue;
    for (const std::size_t k : {1u, 0u}) {
      const ValueId product = add.operands[k], addend = add.operands[1 - k];
      const std::int32_t at = definition[static_cast<std::size_t>(product)];
      if (at < 0 || use[static_cast<std::size_t>(product)].size() != 1 || is_output[static_cast<std::size_t>(product)])
        continue;
      const Op& einsum = graph.ops[static_cast<std::size_t>(at)];
      if (!einsum.is("einsum") || gone[static_cast<std::size_t>(at)]) continue;
      const Value &sum = graph[add.results[0]], &factor = graph[product], &other = graph[addend];
      if (factor.layout.partial || sum.layout.partial || other.dtype != factor.dtype || sum.dtype != factor.dtype)
        continue;
      // The product moves to where the sum stands: its own operands must not have been overwritten, which values never
      // are.
      Op fused = einsum;
      fused.definition = find_op("einsum_add");
      fused.operands.push_back(addend);
      fused.results = add.results;
      fused.made_by = "fuse";
      fused.signature = graph.signature(einsum.signature->operands[0] + "," + einsum.signature->operands[1] + "," +
                                            einsum.signature->results[0] + "->" + einsum.signature->results[0],
                                        fused.operands);
      std::vector<Layout> have;
      for (ValueId operand : fused.operands) have.push_back(graph[operand].layout);
      const Rule rule = layout_rule(graph, fused, have);
      if (rule.operands != have || !(rule.results[0] == sum.layout)) continue;
      gone[static_cast<std::size_t>(at)] = 1;
      add = std::move(fused);
      break;
    }
  }
  std::vector<Op> ops;
  ops.reserve(graph.ops.size());
  for (std::size_t i = 0; i < graph.ops.size(); ++i)
    if (!gone[i]) ops.push_back(std::move(graph.ops[i]));
  graph.ops = std::move(ops);
}

}  // namespace longhaul::passes
