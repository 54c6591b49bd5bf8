// lower_reshards: each reshard becomes the collectives that lead from its operand's layout to its result's, usually
// one.
#include "ir/layout_change.h"
#include "ir/rewrite.h"
#include "passes/pass.h"

namespace longhaul::passes {

void lower_reshards(Graph& graph, const PassContext&) {
  rewrite(graph, [&](Op& op) {
    if (!op.is("reshard")) return graph.ops.push_back(std::move(op));
    const ValueId target = op.results[0];
    const Layout to = graph[target].layout;
    ValueId current = op.operands[0];
    while (const auto step = next_layout_change(graph[current].layout, to, graph[current].shape, graph.mesh)) {
      Op collective = op;
      collective.definition = find_op(step->op);
      collective.attributes = {{"axes", step->axes}};
      if (step->dimension >= 0) collective.attributes.set("dimension", std::int64_t{step->dimension});
      if (step->split >= 0) collective.attributes.set("split", std::int64_t{step->split});
      if (step->by) collective.attributes.set("by", std::int64_t{step->by});
      collective.operands = {current};
      if (step->after == to) {
        current = target;
      } else {
        const Value from = graph[current];
        current = graph.add_value(from.name, from.shape, from.dtype);
        graph[current].layout = step->after;
      }
      collective.results = {current};
      graph.ops.push_back(std::move(collective));
    }
  });
}

}  // namespace longhaul::passes
