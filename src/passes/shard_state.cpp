// shard_state: ZeRO (arXiv 1910.02054) is where state lives. Pins the layouts of parameters, moments, accumulators and
// gradients over all ranks that share a model (batch and sequence axes); partition derives every collective from them.
//   stage                    0        1        2        3
//   moments, masters of compute copies   whole    flat     flat     flat
//   reduced gradients        whole    flat     flat     flat
//   accumulators             partial  partial  flat     flat
//   parameters read by the forward pass  whole    whole    whole    flat
#include "base/error.h"
#include "passes/pass.h"

namespace longhaul::passes {

void shard_state(Graph& graph, const PassContext& context) {
  const CompileOptions& options = context.options;
  const int stage = options.zero_stage;
  const AxisList all = graph.mesh.live();
  const bool copies = options.dtype != master_dtype(options.dtype);

  const auto layout_of = [&](ValueId id, bool sharded) {
    Layout layout = Layout::whole(graph[id].shape.size());
    if (sharded && !graph[id].shape.empty()) layout.flat = all;
    return layout;
  };
  const auto pin = [&](const std::string& name, ValueId id) {
    Value& value = graph[id];
    if (name.starts_with("gradient."))
      value.pinned = layout_of(id, stage >= 1);
    else if (name.starts_with("accumulator.")) {
      value.pinned = layout_of(id, stage >= 2);
      if (stage < 2) value.pinned->partial = all.set();
    } else if (name.starts_with("first_moment.") || name.starts_with("second_moment."))
      value.pinned = layout_of(id, stage >= 1);
    else if (name.starts_with("compute."))
      value.pinned = layout_of(id, stage >= 3);
    else if (value.shape.empty())
      value.pinned = layout_of(id, false);
    else
      value.pinned = layout_of(id, stage >= (copies ? 1 : 3));  // a parameter
  };
  for (const auto& input : graph.inputs)
    if (graph[input.value].role != Role::data) pin(input.name, input.value);
  for (const auto& output : graph.outputs) pin(output.name, output.value);
  // A gradient that is rounded for its reduction is reduced right there, before it is widened again.
  for (const auto& op : graph.ops)
    if (op.is("cast") && op.attributes.integer("for_reduction"))
      graph[op.results[0]].pinned = layout_of(op.results[0], stage >= 1);
}

}  // namespace longhaul::passes
