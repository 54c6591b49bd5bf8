// One step of block attention (arXiv 2310.01889): attention of each query block to one key block,
// the merge of two partial results, and the block's share of the gradients. Queries are cut in `blocks` blocks; block i
// attends to key block (i − step) mod blocks only, still within its visible interval. On a rank that holds one block of
// each, with keys rotated by `step` (so its mark says as well), that is plain attention of what it holds. Attributes as
// attention, plus step and blocks.
#include <algorithm>

#include "ir/builder.h"

namespace longhaul {
namespace {

DType statistics_type(const Graph& graph, const Op& op) {
  return graph[op.operands[0]].dtype == DType::float64 ? DType::float64 : DType::float32;
}
std::vector<DType> block_types(const Graph& graph, const Op& op) {
  return {statistics_type(graph, op), statistics_type(graph, op)};
}
std::vector<DType> gradient_types(const Graph& graph, const Op& op) {
  return {statistics_type(graph, op), statistics_type(graph, op), statistics_type(graph, op)};
}

// The visible pairs of all steps together are those of one causal attention; one step sees no more than its window.
double block_flops(const Graph& graph, const Op& op, const Mesh& mesh) {
  const Value &q = graph[op.operands[0]], &k = graph[op.operands[1]];
  const Shape ql = local_shape(q.shape, q.layout, mesh), kl = local_shape(k.shape, k.layout, mesh);
  const double window = static_cast<double>(op.attributes.integer("window")), half = static_cast<double>(kl[1]) / 2;
  return 4.0 * static_cast<double>(ql[0] * ql[1] * ql[2] * ql[3]) * (window > 0 ? std::min(window, half) : half);
}
double gradient_flops(const Graph& graph, const Op& op, const Mesh& mesh) {
  return 2.5 * block_flops(graph, op, mesh);
}

// The six operands of attention -> partial output and its log_sum_exp, in the statistics' dtype unless the pass that
// makes it says otherwise
const OpRegistration block({.name = "attention_block",
                            .signature = "bshd,btgd,btgd,bs,bt,bs->bshd,bhs",
                            .whole = "d",
                            .only_marked = "ghst",
                            .result_types = block_types,
                            .flops = block_flops,
                            .arithmetic = Arithmetic::attention});

// partial output and log_sum_exp, twice -> those of both key sets together, in the stable form: m = max(a, b), l = m +
// log(e^(a−m) + e^(b−m))
const OpRegistration merge({.name = "attention_merge",
                            .signature = "bshd,bhs,bshd,bhs->bshd,bhs",
                            .whole = "d",
                            .in_place = {{0, 0}, {1, 1}}});

// The operands of attention_gradient (delta and log_sum_exp are those of the merged output) -> the block's dq, dk, dv
const OpRegistration gradient({.name = "attention_block_gradient",
                               .signature = "bshd,btgd,btgd,bs,bt,bs,bsh,bhs,bshd->bshd,btgd,btgd",
                               .whole = "d",
                               .only_marked = "ghst",
                               .result_types = gradient_types,
                               .flops = gradient_flops,
                               .arithmetic = Arithmetic::attention_gradient});

// The same, added to dq, dk, dv so far. Each addend has its result's own split and is no partial sum, so it counts
// once.
const OpRegistration gradient_add({.name = "attention_block_gradient_add",
                                   .signature = "bshd,btgd,btgd,bs,bt,bs,bsh,bhs,bshd,bshd,btgd,btgd->bshd,btgd,btgd",
                                   .whole = "d",
                                   .only_marked = "ghst",
                                   .result_types = gradient_types,
                                   .flops = gradient_flops,
                                   .arithmetic = Arithmetic::attention_gradient,
                                   .in_place = {{0, 9}, {1, 10}, {2, 11}}});

}  // namespace
}  // namespace longhaul
