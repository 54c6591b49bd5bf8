// Sum over valid tokens of −log softmax(logits)[label]; labels below 0 are ignored. Attributes: logits_scale (default
// 1) and soft_cap c (0: none; c · tanh(x / c)) are applied to the logits first.
#include "ir/builder.h"

namespace longhaul {
namespace {

std::vector<DType> scalar_type(const Graph&, const Op&) {
  return {DType::float64};
}

std::vector<DType> token_types(const Graph& graph, const Op& op) {
  const bool wide = graph[op.operands[0]].dtype == DType::float64;
  return {DType::float64, wide ? DType::float64 : DType::float32};
}

std::vector<ValueId> gradient(Builder& builder, const Op& op, const std::vector<ValueId>& result_gradients) {
  return {builder.one("cross_entropy_gradient", {op.operands[0], op.operands[1], result_gradients[0]}, op.attributes),
          no_value};
}

// logits [b, s, v], labels [b, s] int32 -> scalar float64
const OpRegistration cross_entropy({.name = "cross_entropy",
                                    .signature = "bsv,bs->",
                                    .whole = "v",
                                    .result_types = scalar_type,
                                    .gradient = gradient});
// The same, and each token's own loss (0 where the label is ignored), [b, s]; nobody learns from that one.
const OpRegistration cross_entropy_tokens({.name = "cross_entropy_tokens",
                                           .signature = "bsv,bs->,bs",
                                           .whole = "v",
                                           .result_types = token_types,
                                           .gradient = gradient,
                                           .master_results = {1}});
// logits, labels, scale (scalar) -> dlogits [b, s, v]
const OpRegistration cross_entropy_gradient(
    {.name = "cross_entropy_gradient", .signature = "bsv,bs,->bsv", .whole = "v", .in_place = {{0, 0}}});
// labels [b, s] -> how many are valid, float64
const OpRegistration count_valid({.name = "count_valid", .signature = "bs->", .result_types = scalar_type});

}  // namespace
}  // namespace longhaul
