// shard_state: ZeRO (arXiv 1910.02054) is where state lives. Pins the layouts of parameters, moments, accumulators and
// gradients; partition derives every collective from them. State is sharded over the ranks that share a model, or over
// a group of them that replica_axes leaves (hybrid sharding, arXiv 2304.11277); groups hold equal copies.
//   stage                    0        1        2        3
//   moments, masters of compute copies   whole    flat     flat     flat
//   reduced gradients        whole    flat     flat     flat
//   accumulators             partial  partial  flat     flat
//   parameters read by the forward pass  whole    whole    whole    flat
// Where moments are kept in 8 bits, all flat shards of their parameter are whole blocks of what shares a scale.
// With replicas the flat accumulators are partial sums over the groups still: a micro-batch's gradients are reduced
// inside the group, the step's sum across groups.
#include "base/error.h"
#include "passes/pass.h"

namespace longhaul::passes {

void shard_state(Graph& graph, const PassContext& context) {
  const StatePlacement& sharded = context.options.placement.sharded;
  const StateAxes axes = state_axes(graph.mesh, context.options.placement);
  const bool masters = context.options.precision.copies() ? sharded.moments : sharded.parameters;

  const auto layout_of = [&](ValueId id, bool flat, bool scales = false) {
    const Value& value = graph[id];
    Layout layout = Layout::whole(value.shape.size());
    if (flat && !value.shape.empty())
      layout.set_flat(axes.shards, scales ? 1 : context.options.precision.flat_block(element_count(value.shape)));
    return layout;
  };
  const auto accumulated = [&](ValueId id) {
    Layout layout = layout_of(id, sharded.accumulators);
    layout.partial = sharded.accumulators ? axes.replicas.set() : graph.mesh.live().set();
    return layout;
  };
  const auto layout_of_state = [&](Role role, ValueId id) {
    switch (role) {
      case Role::accumulator:
        return accumulated(id);
      case Role::gradient:
        return layout_of(id, sharded.gradients);
      case Role::parameter:
        return layout_of(id, masters);
      case Role::compute_parameter:
        return layout_of(id, sharded.parameters);
      default:
        return layout_of(id, is_moment(role) && sharded.moments, is_scale(role));
    }
  };
  for (const auto* bindings : {&graph.inputs, &graph.outputs})
    for (const auto& binding : *bindings)
      if (Value& value = graph[binding.value]; value.role != Role::data)
        value.pinned = layout_of_state(binding.state ? binding.state->role : value.role, binding.value);
  for (const auto& op : graph.ops) {
    // A gradient that is rounded for its reduction is reduced right there, before it is widened again.
    if (op.is("cast") && op.attributes.integer("for_reduction"))
      graph[op.results[0]].pinned =
          op.attributes.integer("in_group") ? accumulated(op.results[0]) : layout_of(op.results[0], sharded.gradients);
    // What joins a sharded accumulator is reduced inside the group only.
    if (sharded.accumulators && !axes.replicas.empty() && is_accumulation(graph, op))
      graph[op.operands[1]].pinned = accumulated(op.operands[1]);
  }
}

}  // namespace longhaul::passes
