// Softmax attention over the visible interval of each query: key k is visible to query q when
//   max(key_start[q], window ? index[q] − window + 1 : 0) <= index[k] <= index[q].
// Causal masks, sliding windows, packed documents, padding and any order of the tokens are all this.
//
// Letters: b batch, s queries, t keys, h query heads, g KV heads (query head h uses KV head h / (heads / kv_heads)), d
// head dimension. Attributes: scale, window (0: none), soft_cap c (0: none; a score x becomes c tanh(x / c)), and the
// mark `split`: over which axes heads (h and g), queries and keys are split while the op runs.
#include "ir/builder.h"

namespace longhaul {
namespace {

DType statistics_type(const Graph& graph, const Op& op) {
  return graph[op.operands[0]].dtype == DType::float64 ? DType::float64 : DType::float32;
}

std::vector<DType> delta_type(const Graph& graph, const Op& op) {
  return {statistics_type(graph, op)};
}

std::vector<DType> added_types(const Graph& graph, const Op& op) {
  return {graph[op.operands[0]].dtype, graph[op.operands[9]].dtype, graph[op.operands[10]].dtype};
}

std::vector<DType> forward_types(const Graph& graph, const Op& op) {
  return {graph[op.operands[0]].dtype, statistics_type(graph, op)};
}

std::vector<ValueId> gradient(Builder& builder, const Op& op, const std::vector<ValueId>& result_gradients) {
  const ValueId delta = builder.one("attention_delta", {op.results[0], result_gradients[0]});
  std::vector<ValueId> operands = op.operands;
  operands.insert(operands.end(), {delta, op.results[1], result_gradients[0]});
  std::vector<ValueId> gradients = builder.emit("attention_gradient", operands, op.attributes);
  gradients.resize(op.operands.size(), no_value);
  return gradients;
}

// Half of 4·b·s·t·h·d without a window: the causal count. The backward pass has five products for the forward's two.
double forward_flops(const Graph& graph, const Op& op, const Mesh& mesh) {
  const Value &q = graph[op.operands[0]], &k = graph[op.operands[1]];
  const Shape ql = local_shape(q.shape, q.layout, mesh), kl = local_shape(k.shape, k.layout, mesh);
  // Keys that are split as queries are come round, block after block (until a pass has said so in ops).
  const double window = static_cast<double>(op.attributes.integer("window")),
               keys = static_cast<double>(kl[1] * mesh.count(op.attributes.split().axes('t')));
  const double visible = window > 0 && window < keys ? window : keys / 2;
  return 4.0 * static_cast<double>(ql[0] * ql[1] * ql[2] * ql[3]) * visible;
}
double delta_flops(const Graph& graph, const Op& op, const Mesh& mesh) {
  const Value& output = graph[op.operands[0]];
  return 2.0 * static_cast<double>(local_count(output.shape, output.layout, mesh));
}
double backward_flops(const Graph& graph, const Op& op, const Mesh& mesh) {
  return 2.5 * forward_flops(graph, op, mesh);
}

// q, k, v, index of queries, index of keys, key_start of queries -> output, log_sum_exp [b, h, s]
const OpRegistration attention({.name = "attention",
                                .signature = "bshd,btgd,btgd,bs,bt,bs->bshd,bhs",
                                .whole = "d",
                                .only_marked = "ghst",
                                .result_types = forward_types,
                                .gradient = gradient,
                                .flops = forward_flops,
                                .arithmetic = Arithmetic::attention,
                                .recomputable = false,
                                .master_results = {1},
                                .result_like = {{0, 0}}});
// output, its gradient -> [b, s, h], the sum over d of their products: all that the gradient needs of the output. It is
// made where the output lives, so that no second copy in the layout of q, k and v is kept; letters stand as the
// output's so that ranks exchange it with the output's gradient in one message.
const OpRegistration attention_delta({.name = "attention_delta",
                                      .signature = "bshd,bshd->bsh",
                                      .whole = "d",
                                      .result_types = delta_type,
                                      .flops = delta_flops,
                                      .master_results = {0}});
// the six operands, delta, log_sum_exp, gradient of the output -> dq, dk, dv
const OpRegistration attention_gradient({.name = "attention_gradient",
                                         .signature = "bshd,btgd,btgd,bs,bt,bs,bsh,bhs,bshd->bshd,btgd,btgd",
                                         .whole = "d",
                                         .only_marked = "ghst",
                                         .flops = backward_flops,
                                         .arithmetic = Arithmetic::attention_gradient,
                                         .recomputable = false});
// The same of some of the query heads that read the KV heads: dk and dv are added to what the others gave so far,
// head after head as the op above adds those of one call (in the statistics' dtype, which its maker asks of the first).
const OpRegistration attention_gradient_add(
    {.name = "attention_gradient_add",
     .signature = "bshd,btgd,btgd,bs,bt,bs,bsh,bhs,bshd,btgd,btgd->bshd,btgd,btgd",
     .whole = "d",
     .only_marked = "ghst",
     .result_types = added_types,
     .flops = backward_flops,
     .arithmetic = Arithmetic::attention_gradient,
     .recomputable = false,
     .in_place = {{1, 9}, {2, 10}}});

}  // namespace
}  // namespace longhaul
