// differentiate: appends the backward pass, op by op in reverse, on the single-device graph. It knows nothing of
// layouts; a contraction over a split dimension later makes every gradient collective by itself.
#include "base/error.h"
#include "ir/rewrite.h"
#include "passes/pass.h"

namespace longhaul::passes {

void differentiate(Graph& graph, const PassContext& context) {
  if (!is_accumulate(context.kind)) return;
  Builder builder(graph, "differentiate");
  std::vector<std::vector<ValueId>> contributions(graph.values.size());
  const auto contribute = [&](ValueId value, ValueId gradient) {
    contributions[static_cast<std::size_t>(value)].push_back(gradient);
    if (graph[gradient].primal == no_value) graph[gradient].primal = value;
  };
  // The gradient of a value, once all its uses are behind us.
  const auto close = [&](ValueId value) {
    const auto& list = contributions[static_cast<std::size_t>(value)];
    if (list.empty()) return no_value;
    if (list.size() == 1) return list.front();
    const ValueId sum = builder.one("add", list);
    graph[sum].primal = value;
    return sum;
  };

  builder.at(Phase::backward, -1);
  const ValueId loss = graph.output("loss");
  LONGHAUL_CHECK(loss != no_value, "graph {} has no loss", graph.name);
  const std::size_t forward_ops = graph.ops.size();
  contribute(loss, builder.one("constant", {}, {{"value", 1.0}}));
  for (std::size_t i = forward_ops; i-- > 0;) {
    const Op op = graph.ops[i];  // a copy: appending moves the list
    if (!op.definition->gradient) continue;
    builder.at(Phase::backward, op.layer);
    std::vector<ValueId> result_gradients;
    bool any = false;
    for (ValueId result : op.results) {
      result_gradients.push_back(close(result));
      any |= result_gradients.back() != no_value;
    }
    if (!any) continue;
    const std::vector<ValueId> gradients = op.definition->gradient(builder, op, result_gradients);
    LONGHAUL_CHECK(gradients.size() == op.operands.size(), "gradient of {}", op.definition->name);
    contributions.resize(graph.values.size());
    for (std::size_t k = 0; k < gradients.size(); ++k)
      if (gradients[k] != no_value) contribute(op.operands[k], gradients[k]);
  }
  for (const auto& parameter : context.options.meaning.parameters) {
    const ValueId value = graph.input(parameter.name);
    LONGHAUL_CHECK(value != no_value, "graph {} has no parameter {}", graph.name, parameter.name);
    builder.at(Phase::backward, -1);
    const ValueId gradient = close(value);
    LONGHAUL_CHECK(gradient != no_value, "no gradient reaches parameter {}", parameter.name);
    graph.outputs.push_back({StateKey{Role::gradient, parameter.name}, gradient});
    if (graph[gradient].name.empty()) graph[gradient].name = graph.outputs.back().name;
  }
  remove_dead_ops(graph);
}

}  // namespace longhaul::passes
