// assign_precision: from the float64 specification to the dtypes of the run.
//   scalars, loss and norms   float64
//   masters                   float32
//   moments                   optimizer.state_dtype; a step computes in float32. In 8 bits: codes and, of every block
//                             of them, a scale, a state tensor of its own
//   activations, compute copies of parameters      training.dtype
//   log-sum-exp, RoPE tables  float32
//   parameter gradients       training.gradient_dtype, computed in float32 (float64); rounded to
//   gradient_reduce_dtype only on their way through a reduction
// A low-precision run reads compute copies: state of their own, made from the masters by the update, so that ZeRO
// shards masters with the moments and gathers only the small copies.
#include <algorithm>

#include "base/error.h"
#include "ir/op_definition.h"
#include "ir/rewrite.h"
#include "passes/pass.h"

namespace longhaul::passes {
namespace {

bool is_parameter(const Graph& graph, ValueId value) {
  return value != no_value && graph[value].role == Role::parameter;
}

bool keeps_master(const Op& op, std::size_t result) {
  const auto& list = op.definition->master_results;
  return std::find(list.begin(), list.end(), static_cast<int>(result)) != list.end();
}

// A moment after the step that it was before.
bool continues_moment(const Graph& graph, const Op& op, std::size_t result) {
  for (const auto& [to, from] : op.definition->in_place)
    if (static_cast<std::size_t>(to) == result)
      return is_moment(graph[op.operands[static_cast<std::size_t>(from)]].role);
  return false;
}

DType type_of_input(const Value& value, const Precision& precision) {
  switch (value.role) {
    case Role::parameter:
      return precision.master();
    case Role::first_moment:
    case Role::second_moment:
      return precision.moments(element_count(value.shape));
    case Role::accumulator:
    case Role::gradient:
      return precision.gradient;
    default:
      return value.dtype;
  }
}

// The compute copies: parameter inputs of the forward and backward pass are replaced by inputs of their own.
void read_compute_copies(Graph& graph, const Precision& precision) {
  std::vector<ValueId> copies;
  for (std::size_t i = 0, n = graph.inputs.size(); i < n; ++i) {
    const Binding input = graph.inputs[i];
    if (!is_parameter(graph, input.value)) continue;
    copies.resize(graph.values.size(), no_value);
    copies[static_cast<std::size_t>(input.value)] = graph.add_input(
        StateKey{Role::compute_parameter, input.state->parameter}, graph[input.value].shape, precision.dtype);
  }
  copies.resize(graph.values.size(), no_value);
  for (auto& op : graph.ops)
    for (ValueId& operand : op.operands)
      if (copies[static_cast<std::size_t>(operand)] != no_value) operand = copies[static_cast<std::size_t>(operand)];
  for (auto& value : graph.values)  // gradients are those of the copies now
    if (value.primal != no_value && copies[static_cast<std::size_t>(value.primal)] != no_value)
      value.primal = copies[static_cast<std::size_t>(value.primal)];
  std::erase_if(graph.inputs, [&](const Binding& input) { return is_parameter(graph, input.value); });
}

// The micro-batch's gradient that an output is, or adds to an accumulator.
ValueId gradient_of(const Graph& graph, const std::vector<std::int32_t>& definition, ValueId output) {
  const Op& op = graph.ops[static_cast<std::size_t>(definition[static_cast<std::size_t>(output)])];
  return is_accumulation(graph, op) ? op.operands[1] : output;
}

// Ops give gradients in the dtype that they accumulate in; a narrower gradient_dtype rounds them.
void round_for_accumulation(Graph& graph, const Precision& precision) {
  std::vector<char> marked(graph.values.size(), 0);
  const auto definition = definitions(graph);
  for (const auto& output : graph.outputs)
    if (output.state) marked[static_cast<std::size_t>(gradient_of(graph, definition, output.value))] = 1;
  Builder builder(graph, "assign_precision");
  insert_behind(
      builder, [&](const Op&, ValueId result) { return marked[static_cast<std::size_t>(result)]; },
      [&](ValueId wide) {
        const ValueId narrow = builder.cast(wide, precision.gradient, {{"for_accumulation", std::int64_t{1}}});
        graph[narrow].name = graph[wide].name;
        graph[narrow].primal = graph[wide].primal;
        return narrow;
      });
}

// gradient -> cast to the reduction's dtype -> (reduction) -> cast back, right after the gradient is defined.
void round_for_reduction(Graph& graph, const PassContext& context) {
  const Precision& precision = context.options.precision;
  const Placement& placement = context.options.placement;
  const StateAxes axes = state_axes(graph.mesh, placement);
  const bool every_micro_batch = placement.sharded.accumulators && !axes.shards.empty();
  const bool hands_over = context.kind == ProgramKind::accumulate_only || context.kind == ProgramKind::accumulate_last;
  if (!every_micro_batch && !hands_over) return;
  // The value that crosses the reduction: the micro-batch's gradient when accumulators are sharded, else the finished
  // sum. Where groups hold copies the former is reduced inside its group only, and the sum crosses as well.
  enum : char { no, whole, in_group };
  std::vector<char> crosses(graph.values.size(), no);
  const auto definition = definitions(graph);
  for (const auto& output : graph.outputs) {
    if (!output.state) continue;  // the loss
    const auto sum = static_cast<std::size_t>(output.value),
               gradient = static_cast<std::size_t>(gradient_of(graph, definition, output.value));
    if (every_micro_batch) crosses[gradient] = axes.replicas.empty() ? whole : in_group;
    if (!every_micro_batch || (hands_over && !axes.replicas.empty())) crosses[sum] = whole;
  }
  Builder builder(graph, "assign_precision");
  insert_behind(
      builder, [&](const Op&, ValueId result) { return crosses[static_cast<std::size_t>(result)] != no; },
      [&](ValueId gradient) {
        Attributes attributes{{"for_reduction", std::int64_t{1}}}, back;
        if (crosses[static_cast<std::size_t>(gradient)] == in_group) {
          attributes.set("in_group", std::int64_t{1});
          // Accumulators are partial sums over the groups; a narrower gradient_dtype rounds what joins them.
          if (size_of(precision.gradient) < size_of(precision.gradient_reduce))
            back.set("for_accumulation", std::int64_t{1});
        }
        const ValueId reduced = builder.cast(gradient, precision.gradient_reduce, std::move(attributes));
        return builder.cast(reduced, precision.gradient, std::move(back));
      });
}

void update_compute_copies(Graph& graph, const CompileOptions& options) {
  Builder builder(graph, "assign_precision");
  builder.at(Phase::update, -1);
  for (const auto& parameter : options.meaning.parameters) {
    const ValueId value = graph.output(parameter.name);
    graph.outputs.push_back(
        {StateKey{Role::compute_parameter, parameter.name}, builder.cast(value, options.precision.dtype)});
  }
}

// The steps of parameters whose moments are kept in 8 bits read and give scales too.
void add_scales(Graph& graph) {
  rewrite(graph, [&](Op& op) {
    if (!op.is("adamw") || graph[op.operands[0]].dtype != DType::uint8) {
      graph.ops.push_back(std::move(op));
      return;
    }
    const Shape blocks = {moment_blocks(element_count(graph[op.operands[0]].shape))};
    const auto input = std::find_if(graph.inputs.begin(), graph.inputs.end(),
                                    [&](const Binding& one) { return one.value == op.operands[0]; });
    LONGHAUL_CHECK(input != graph.inputs.end() && input->state, "adamw of a moment that is no state");
    const std::string parameter = input->state->parameter;
    for (const auto& [place, role] : {std::pair{1, Role::first_scale}, std::pair{3, Role::second_scale}}) {
      op.operands.insert(op.operands.begin() + place,
                         graph.add_input(StateKey{role, parameter}, blocks, DType::float32));
      const ValueId result = graph.add_value("", blocks, DType::float32);
      op.results.insert(op.results.begin() + place, result);
      graph.outputs.push_back({StateKey{role, parameter}, result});
    }
    op.definition = find_op("adamw_8bit");
    op.signature = graph.signature(op.definition->signature, op.operands);
    op.made_by = "assign_precision";
    graph.ops.push_back(std::move(op));
  });
}

}  // namespace

void assign_precision(Graph& graph, const PassContext& context) {
  const Precision& precision = context.options.precision;
  const bool rounds = precision.gradient != precision.master();
  for (const auto& input : graph.inputs) graph[input.value].dtype = type_of_input(graph[input.value], precision);
  for (const auto& op : graph.ops)
    for (std::size_t i = 0; i < op.results.size(); ++i) {
      Value& value = graph[op.results[i]];
      if (!is_floating(value.dtype) || value.shape.empty()) continue;  // integers and scalars stay
      if (is_accumulation(graph, op))
        value.dtype = precision.gradient;
      else if (continues_moment(graph, op, i))
        value.dtype = precision.moments(element_count(value.shape));
      else if (keeps_master(op, i) || is_parameter(graph, value.primal))
        value.dtype = precision.master();
      else
        value.dtype = precision.dtype;
    }
  if (context.kind == ProgramKind::update && precision.moment == DType::uint8) add_scales(graph);
  if (precision.copies()) {
    if (context.kind == ProgramKind::update)
      update_compute_copies(graph, context.options);
    else
      read_compute_copies(graph, precision);
  }
  if (is_accumulate(context.kind) && rounds) round_for_accumulation(graph, precision);
  if (is_accumulate(context.kind) && precision.gradient_reduce != precision.gradient && graph.mesh.world() > 1)
    round_for_reduction(graph, context);
}

}  // namespace longhaul::passes
