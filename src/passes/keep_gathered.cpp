// keep_gathered: how long a parameter stays whole once ZeRO-3 has gathered it. Partition gathers it for every phase of
// a layer anew, which needs the least memory (KeepGathered::never, where this pass does nothing). Kept until
// backward, the first gather of a program serves all of it. Kept for the step, the first micro-batch hands what it
// gathered to the others, as state of its own role.
#include <map>

#include "ir/rewrite.h"
#include "passes/pass.h"

namespace longhaul::passes {
namespace {

bool gathers_a_parameter(const Graph& graph, const Op& op) {
  if (!op.is("reshard")) return false;
  const Value &from = graph[op.operands[0]], &to = graph[op.results[0]];
  return holds_parameter(from.role) && !from.layout.flat.empty() && to.layout.is_whole();
}

}  // namespace

void keep_gathered(Graph& graph, const PassContext& context) {
  const KeepGathered lifetime = context.options.schedule.keep_gathered;
  if (lifetime == KeepGathered::never || !is_accumulate(context.kind)) return;
  const bool gives = lifetime == KeepGathered::step && context.kind == ProgramKind::accumulate_first;
  const bool takes = lifetime == KeepGathered::step &&
                     (context.kind == ProgramKind::accumulate_middle || context.kind == ProgramKind::accumulate_last);
  std::map<ValueId, StateKey> keys;
  for (const auto& input : graph.inputs)
    if (input.state) keys[input.value] = {Role::gathered, input.state->parameter};

  std::map<ValueId, ValueId> whole;  // by parameter
  std::vector<ValueId> substitution(graph.values.size(), no_value);
  rewrite(graph, [&](Op& op) {
    if (!gathers_a_parameter(graph, op)) return graph.ops.push_back(std::move(op));
    const ValueId parameter = op.operands[0], result = op.results[0];
    if (const auto known = whole.find(parameter); known != whole.end()) {
      substitution[static_cast<std::size_t>(result)] = known->second;
    } else if (takes) {
      const Value gathered = graph[result];
      const ValueId input = graph.add_input(keys.at(parameter), gathered.shape, gathered.dtype);
      graph[input].layout = gathered.layout;
      whole[parameter] = substitution[static_cast<std::size_t>(result)] = input;
    } else {
      whole[parameter] = result;
      if (gives) graph.outputs.push_back({keys.at(parameter), result});
      graph.ops.push_back(std::move(op));
    }
  });
  substitute(graph, substitution);
}

}  // namespace longhaul::passes
