// loss: from the logits of the forward graph to what each program reports. The loss is sum over valid tokens / count of
// valid tokens; the count is taken over the whole step before the first backward pass, so gradients are summed over
// micro-batches and ranks, never averaged.
#include "base/error.h"
#include "ir/rewrite.h"
#include "passes/pass.h"

namespace longhaul::passes {

void loss(Graph& graph, const PassContext& context) {
  if (context.kind == ProgramKind::update) return;
  Builder builder(graph, "loss");
  const ValueId labels = graph.input("labels");
  LONGHAUL_CHECK(labels != no_value, "graph {} has no labels", graph.name);
  if (context.kind == ProgramKind::count) {
    graph.outputs = {{"valid_tokens", builder.one("count_valid", {labels})}};
    remove_dead_ops(graph);
    // Parameters are none of its business.
    std::erase_if(graph.inputs, [&](const Binding& input) { return graph[input.value].role != Role::data; });
    return;
  }
  const ValueId logits = graph.output("logits");
  LONGHAUL_CHECK(logits != no_value, "graph {} has no logits", graph.name);
  Attributes attributes;
  const Meaning& meaning = context.options.meaning;
  if (meaning.logits_scale != 1) attributes.set("logits_scale", meaning.logits_scale);
  if (meaning.logits_soft_cap != 0) attributes.set("soft_cap", meaning.logits_soft_cap);
  const bool evaluates = context.kind == ProgramKind::evaluate;
  const bool tokens = evaluates ? meaning.evaluated_token_losses : meaning.trained_token_losses;
  const std::vector<ValueId> losses =
      builder.emit(tokens ? "cross_entropy_tokens" : "cross_entropy", {logits, labels}, attributes);
  const ValueId sum = losses[0];
  if (evaluates) {
    graph.outputs = {{"loss_sum", sum}, {"valid_tokens", builder.one("count_valid", {labels})}};
  } else {
    const ValueId inverse_count = graph.add_input("inverse_count", {}, DType::float64, Role::scalar);
    graph.outputs = {{"loss", builder.one("multiply", {sum, inverse_count})}};
  }
  if (!tokens) return;
  graph[losses[1]].role = Role::data;  // of the micro-batch, as labels are: it stays where each token is
  graph.outputs.push_back({"token_losses", losses[1]});
}

}  // namespace longhaul::passes
