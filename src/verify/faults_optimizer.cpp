// Planted faults of the optimizer: of its arithmetic, of the dtypes of its moments and of where it is computed.
#include <utility>

#include "ir/builder.h"
#include "verify/fault_places.h"

namespace longhaul::fault {

// ---- of the specification

bool norm_without_a_parameter(Graph& graph, const PassContext& context) {
  if (context.kind != ProgramKind::update) return false;
  Op* sum = first_op(graph, [](const Op& op) { return op.is("add"); });
  if (sum) sum->operands.back() = sum->operands.front();
  return sum != nullptr;
}

bool keeps_more_of_a_moment(Graph& graph, const PassContext&) {
  bool planted = false;
  for (Op& op : graph.ops) {
    const bool adamw = op.is("adamw");
    if (!adamw && !op.is("sgd_momentum") && !op.is("muon_momentum")) continue;
    const char* kept = adamw ? "beta1" : "momentum";
    op.attributes.set(kept, 1.01 * op.attributes.number(kept));
    planted = true;
  }
  return planted;
}

// The parameters of a first step are the same: AdamW divides a gradient by its own size.
bool takes_unclipped_gradients(Graph& graph, const PassContext&) {
  const ValueId step = graph.input("step");  // 1 at the step that is verified, as no clipping is
  bool planted = false;
  for (Op& op : graph.ops) {
    if (!op.is("adamw")) continue;
    op.operands[4] = step;
    planted = true;
  }
  return planted;
}

bool takes_columns_for_rows(Graph& graph, const PassContext&) {
  Op* op = first_op(graph, [&](const Op& one) {
    const std::int64_t rows = one.is("orthogonalize") ? one.attributes.integer("rows") : 0;
    return rows > 0 && element_count(graph[one.operands[0]].shape) != rows * rows;
  });
  if (op) op->attributes.set("rows", element_count(graph[op->operands[0]].shape) / op->attributes.integer("rows"));
  return op != nullptr;
}

// ---- of precision

// Of moments that are wider than bfloat16.
bool rounds_moments(Graph& graph, const PassContext& context) {
  const Precision& precision = context.options.precision;
  const DType high = precision.moment.value_or(precision.master()),
              low = high == DType::float64 ? DType::float32 : DType::bfloat16;
  if (context.kind != ProgramKind::update || !is_floating(high) || high == low) return false;
  bool planted = false;
  Builder builder(graph, "fault");
  builder.place_results(true);
  for (Binding& output : graph.outputs) {
    if (!output.is(Role::first_moment) && !output.is(Role::second_moment)) continue;
    output.value = builder.cast(builder.cast(output.value, low), high);
    planted = true;
  }
  return planted;
}

// Of moments that are kept in bfloat16.
bool exchanges_rounded_moments(Graph& graph, const PassContext& context) {
  if (context.kind != ProgramKind::update || context.options.precision.moment != DType::bfloat16) return false;
  for (std::size_t j = 0; j < graph.outputs.size(); ++j)
    for (std::size_t i = 0; i < j; ++i) {
      Binding &one = graph.outputs[i], &other = graph.outputs[j];
      if (!one.is(Role::first_moment) || !other.is(Role::first_moment) ||
          !same_type(graph[one.value], graph[other.value]))
        continue;
      std::swap(one.value, other.value);
      return true;
    }
  return false;
}

// ---- of placement

// Its parameters may be right all the same where both gradients have the same signs; its moments are not.
bool takes_another_gradient(Graph& graph, const PassContext&) {
  for (std::size_t j = 0; j < graph.ops.size(); ++j)
    for (std::size_t i = 0; i < j; ++i) {
      const Op& one = graph.ops[i];
      Op& other = graph.ops[j];
      if (!one.is("adamw") || !other.is("adamw") || !same_type(graph[one.operands[3]], graph[other.operands[3]]))
        continue;
      other.operands[3] = one.operands[3];
      return true;
    }
  return false;
}

bool orthogonalizes_another_update(Graph& graph, const PassContext&) {
  for (std::size_t j = 0; j < graph.ops.size(); ++j)
    for (std::size_t i = 0; i < j; ++i) {
      const Op& earlier = graph.ops[i];
      Op& op = graph.ops[j];
      if (!op.is("orthogonalize") || !earlier.is("orthogonalize") ||
          !same_type(graph[op.operands[0]], graph[earlier.operands[0]]))
        continue;
      op.operands = earlier.operands;
      return true;
    }
  return false;
}

}  // namespace longhaul::fault
