// assign_precision: from the float64 specification to the dtypes of the run.
//   scalars, loss and norms   float64
//   masters, moments          float32
//   activations, compute copies of parameters      training.dtype
//   log-sum-exp, RoPE tables  float32
//   parameter gradients       training.gradient_dtype; rounded to gradient_reduce_dtype only on their way through a
//   reduction
// A low-precision run reads compute copies: state of their own, made from the masters by the update, so that ZeRO
// shards masters with the moments and gathers only the small copies.
#include "base/error.h"
#include "ir/builder.h"
#include "passes/pass.h"

namespace longhaul::passes {
namespace {

bool is_parameter(const Graph& graph, ValueId value) {
  return value != no_value && graph[value].role == Role::parameter;
}

DType type_of_input(const Value& value, const CompileOptions& options) {
  switch (value.role) {
    case Role::parameter:
    case Role::first_moment:
    case Role::second_moment:
      return master_dtype(options.dtype);
    case Role::accumulator:
      return options.gradient_dtype;
    default:
      return value.dtype;
  }
}

// The compute copies: parameter inputs of the forward and backward pass are replaced by inputs of their own.
void read_compute_copies(Graph& graph, const CompileOptions& options) {
  std::vector<ValueId> copies;
  for (std::size_t i = 0, n = graph.inputs.size(); i < n; ++i) {
    const Binding input = graph.inputs[i];
    if (!is_parameter(graph, input.value)) continue;
    copies.resize(graph.values.size(), no_value);
    copies[static_cast<std::size_t>(input.value)] =
        graph.add_input("compute." + input.name, graph[input.value].shape, options.dtype, Role::compute_parameter);
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

// gradient -> cast to the reduction's dtype -> (reduction) -> cast back, right after the gradient is defined.
void round_for_reduction(Graph& graph, const PassContext& context) {
  const CompileOptions& options = context.options;
  const bool every_micro_batch = options.zero_stage >= 2;
  const bool hands_over = context.kind == ProgramKind::accumulate_only || context.kind == ProgramKind::accumulate_last;
  if (!every_micro_batch && !hands_over) return;
  // The value that crosses the reduction: the micro-batch's gradient when accumulators are sharded, else the finished
  // sum.
  std::vector<char> crosses(graph.values.size(), 0);
  const auto definition = definitions(graph);
  for (const auto& output : graph.outputs) {
    if (output.name == "loss") continue;
    ValueId value = output.value;
    if (every_micro_batch) {
      const Op& op = graph.ops[static_cast<std::size_t>(definition[static_cast<std::size_t>(value)])];
      if (op.is("add") && op.made_by == "optimizer") value = op.operands[1];
    }
    crosses[static_cast<std::size_t>(value)] = 1;
  }
  std::vector<Op> ops;
  ops.swap(graph.ops);
  Builder builder(graph, "assign_precision");
  std::vector<ValueId> rounded(crosses.size(), no_value);
  for (Op& op : ops) {
    for (ValueId& operand : op.operands)
      if (static_cast<std::size_t>(operand) < rounded.size() && rounded[static_cast<std::size_t>(operand)] != no_value)
        operand = rounded[static_cast<std::size_t>(operand)];
    builder.at(op);
    const std::vector<ValueId> results = op.results;
    graph.ops.push_back(std::move(op));
    for (ValueId result : results) {
      if (static_cast<std::size_t>(result) >= crosses.size() || !crosses[static_cast<std::size_t>(result)]) continue;
      const auto cast = [&](ValueId value, DType type, Attributes attributes) {
        return builder.one("cast", {value}, std::move(attributes),
                           {.signature = "", .result_shapes = {}, .result_types = {type}, .name = ""});
      };
      const ValueId low = cast(result, options.gradient_reduce_dtype, {{"for_reduction", std::int64_t{1}}});
      rounded[static_cast<std::size_t>(result)] = cast(low, options.gradient_dtype, {});
    }
  }
  for (auto& output : graph.outputs)
    if (static_cast<std::size_t>(output.value) < rounded.size() &&
        rounded[static_cast<std::size_t>(output.value)] != no_value)
      output.value = rounded[static_cast<std::size_t>(output.value)];
}

void update_compute_copies(Graph& graph, const CompileOptions& options) {
  Builder builder(graph, "assign_precision");
  builder.at(Phase::update, -1);
  for (const auto& parameter : options.parameters) {
    const ValueId value = graph.output(parameter.name);
    const ValueId copy = builder.one(
        "cast", {value}, {}, {.signature = "", .result_shapes = {}, .result_types = {options.dtype}, .name = ""});
    graph.outputs.push_back({"compute." + parameter.name, copy});
  }
}

}  // namespace

void assign_precision(Graph& graph, const PassContext& context) {
  const CompileOptions& options = context.options;
  for (const auto& input : graph.inputs) graph[input.value].dtype = type_of_input(graph[input.value], options);
  for (const auto& op : graph.ops)
    for (std::size_t i = 0; i < op.results.size(); ++i) {
      Value& value = graph[op.results[i]];
      if (!is_floating(value.dtype) || value.shape.empty()) continue;  // integers and scalars stay
      if (op.is("adamw"))
        value.dtype = master_dtype(options.dtype);
      else if (op.is("rope_table") || (op.is("attention") && i == 1))
        value.dtype = master_dtype(options.dtype);
      else if (is_parameter(graph, value.primal) || (op.is("add") && op.made_by == "optimizer"))
        value.dtype = options.gradient_dtype;
      else
        value.dtype = options.dtype;
    }
  if (options.dtype != master_dtype(options.dtype)) {
    if (context.kind == ProgramKind::update)
      update_compute_copies(graph, options);
    else
      read_compute_copies(graph, options);
  }
  if (is_accumulate(context.kind) && options.gradient_reduce_dtype != options.gradient_dtype && graph.mesh.world() > 1)
    round_for_reduction(graph, context);
}

}  // namespace longhaul::passes
