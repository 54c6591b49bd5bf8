// tile_loss_head: output projection, cross entropy and their gradients become one op that works through its own rows in
// tiles; the loss needs only 1/count, never itself, so its gradient is known while the logits of a tile are in cache.
// Before partition: nothing here knows of shards.
#include <algorithm>

#include "ir/rewrite.h"
#include "passes/pass.h"

namespace longhaul::passes {
namespace {

struct Pattern {
  int projection = -1, loss = -1;  // logits = einsum(x, w); sum = cross_entropy(logits, labels), or with tokens' losses
  int loss_gradient = -1, input_gradient = -1,
      weight_gradient = -1;  // absent in evaluate; the last where the head is frozen
};

bool is_loss(const Op& op) {
  return op.is("cross_entropy") || op.is("cross_entropy_tokens");
}

bool find(const Graph& graph, Pattern& pattern) {
  const auto use = uses(graph);
  const auto definition = definitions(graph);
  for (std::size_t i = 0; i < graph.ops.size(); ++i) {
    if (!is_loss(graph.ops[i])) continue;
    pattern.loss = static_cast<int>(i);
    const ValueId logits = graph.ops[i].operands[0];
    pattern.projection = definition[static_cast<std::size_t>(logits)];
    if (pattern.projection < 0) return false;
    const Op& projection = graph.ops[static_cast<std::size_t>(pattern.projection)];
    if (!projection.is("einsum") || projection.signature->text != "bse,ve->bsv") return false;
    for (const auto& output : graph.outputs)
      if (output.value == logits) return false;  // somebody wants them whole
    for (std::int32_t user : use[static_cast<std::size_t>(logits)]) {
      const Op& op = graph.ops[static_cast<std::size_t>(user)];
      if (op.is("cross_entropy_gradient"))
        pattern.loss_gradient = user;
      else if (user != pattern.loss)
        return false;
    }
    if (pattern.loss_gradient < 0) return true;
    // Its gradient goes to the projection's input and weight, and nowhere else.
    const ValueId gradient = graph.ops[static_cast<std::size_t>(pattern.loss_gradient)].results[0];
    for (const auto& output : graph.outputs)
      if (output.value == gradient) return false;
    for (std::int32_t user : use[static_cast<std::size_t>(gradient)]) {
      const Op& op = graph.ops[static_cast<std::size_t>(user)];
      if (!op.is("einsum") || op.operands[0] != gradient) return false;
      const bool weight = op.signature->text == "bsv,bse->ve" && op.operands[1] == projection.operands[0];
      const bool input = op.signature->text == "bsv,ve->bse" && op.operands[1] == projection.operands[1];
      if (!weight && !input) return false;
      int& place = weight ? pattern.weight_gradient : pattern.input_gradient;
      if (place >= 0) return false;
      place = user;
    }
    return pattern.input_gradient >= 0;  // a head that is not trained has no other
  }
  return false;
}

}  // namespace

void tile_loss_head(Graph& graph, const PassContext&) {
  Pattern pattern;
  if (!find(graph, pattern)) return;
  const auto at = [](int i) { return static_cast<std::size_t>(i); };
  const Op projection = graph.ops[at(pattern.projection)], loss = graph.ops[at(pattern.loss)];

  Op head;
  head.attributes = loss.attributes;
  head.layer = -1;
  head.made_by = "tile_loss_head";
  head.operands = {projection.operands[0], projection.operands[1], loss.operands[1]};
  head.results = loss.results;
  const bool tokens = loss.is("cross_entropy_tokens");
  std::vector<char> gone(graph.ops.size(), 0);
  gone[at(pattern.projection)] = gone[at(pattern.loss)] = 1;
  std::size_t place = at(pattern.loss);
  if (pattern.loss_gradient < 0) {
    head.definition = find_op(tokens ? "loss_head_evaluate_tokens" : "loss_head_evaluate");
    head.phase = Phase::forward;
  } else {
    const bool trained = pattern.weight_gradient >= 0;
    head.definition = find_op(trained ? (tokens ? "loss_head_tokens" : "loss_head")
                                      : (tokens ? "loss_head_frozen_tokens" : "loss_head_frozen"));
    head.phase = Phase::backward;
    head.operands.push_back(graph.ops[at(pattern.loss_gradient)].operands[2]);
    head.results.push_back(graph.ops[at(pattern.input_gradient)].results[0]);
    gone[at(pattern.loss_gradient)] = gone[at(pattern.input_gradient)] = 1;
    if (trained) {
      head.results.push_back(graph.ops[at(pattern.weight_gradient)].results[0]);
      gone[at(pattern.weight_gradient)] = 1;
    }
    place = at(pattern.loss_gradient);
  }
  head.signature = graph.signature(head.definition->signature, head.operands);

  // The head stands where its last operand is known; forward ops that read the loss sum move behind it.
  std::vector<char> late(graph.values.size(), 0);
  for (ValueId result : head.results) late[static_cast<std::size_t>(result)] = 1;
  graph.ops[place] = std::move(head);
  std::vector<std::size_t> order, waiting;
  for (std::size_t i = 0; i < graph.ops.size(); ++i) {
    if (i == place) {
      order.push_back(i);
      order.insert(order.end(), waiting.begin(), waiting.end());
    }
    if (gone[i]) continue;
    const Op& op = graph.ops[i];
    const bool waits = i < place && std::any_of(op.operands.begin(), op.operands.end(), [&](ValueId operand) {
                         return late[static_cast<std::size_t>(operand)] != 0;
                       });
    for (ValueId result : op.results) late[static_cast<std::size_t>(result)] |= waits;
    (waits ? waiting : order).push_back(i);
  }
  select_ops(graph, order);
}

}  // namespace longhaul::passes
