// shard_state: ZeRO (arXiv 1910.02054) is where state lives. Pins the layouts of parameters, moments, accumulators and
// gradients; partition derives every collective from them. State is sharded over the ranks that share a model, or over
// a group of them that replica_axes leaves (hybrid sharding, arXiv 2304.11277); groups hold equal copies.
//   stage                    0        1        2        3
//   moments, masters of compute copies   whole    flat     flat     flat
//   reduced gradients        whole    flat     flat     flat
//   accumulators             partial  partial  flat     flat
//   parameters read by the forward pass  whole    whole    whole    flat
// With replicas the flat accumulators are partial sums over the groups still: a micro-batch's gradients are reduced
// inside the group, the step's sum across groups.
#include "base/error.h"
#include "passes/pass.h"

namespace longhaul::passes {

void shard_state(Graph& graph, const PassContext& context) {
  const CompileOptions& options = context.options;
  const int stage = options.zero_stage;
  const StateAxes axes = state_axes(graph.mesh, options);
  const bool copies = options.dtype != master_dtype(options.dtype);

  const auto layout_of = [&](ValueId id, bool sharded) {
    Layout layout = Layout::whole(graph[id].shape.size());
    if (sharded && !graph[id].shape.empty()) layout.flat = axes.shards;
    return layout;
  };
  const auto accumulated = [&](ValueId id) {
    Layout layout = layout_of(id, stage >= 2);
    layout.partial = stage >= 2 ? axes.replicas.set() : graph.mesh.live().set();
    return layout;
  };
  const auto pin = [&](const std::string& name, ValueId id) {
    Value& value = graph[id];
    if (name.starts_with("gradient."))
      value.pinned = layout_of(id, stage >= 1);
    else if (name.starts_with("accumulator."))
      value.pinned = accumulated(id);
    else if (name.starts_with("first_moment.") || name.starts_with("second_moment."))
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
  for (const auto& op : graph.ops) {
    // A gradient that is rounded for its reduction is reduced right there, before it is widened again.
    if (op.is("cast") && op.attributes.integer("for_reduction"))
      graph[op.results[0]].pinned =
          op.attributes.integer("in_group") ? accumulated(op.results[0]) : layout_of(op.results[0], stage >= 1);
    // What joins a sharded accumulator is reduced inside the group only.
    if (stage >= 2 && !axes.replicas.empty() && op.is("add") && op.made_by == "optimizer" &&
        is_accumulate(context.kind))
      graph[op.operands[1]].pinned = accumulated(op.operands[1]);
  }
}

}  // namespace longhaul::passes
