// The output projection, the loss and all their gradients in one op that tiles over its own rows, so that logits are
// never whole and never computed twice. Made by tile_loss_head. Attributes as cross_entropy.
#include "ir/builder.h"

namespace longhaul {
namespace {

std::vector<DType> loss_head_types(const Graph& graph, const Op& op) {
  return {DType::float64, graph[op.operands[0]].dtype, graph[op.operands[1]].dtype};
}
std::vector<DType> scalar_type(const Graph&, const Op&) {
  return {DType::float64};
}

std::vector<DType> with_tokens(const Graph& graph, const Op& op) {
  const bool wide = graph[op.operands[0]].dtype == DType::float64;
  const DType losses = wide ? DType::float64 : DType::float32;
  if (op.operands.size() == 3) return {DType::float64, losses};
  return {DType::float64, losses, graph[op.operands[0]].dtype, graph[op.operands[1]].dtype};
}

std::vector<DType> of_frozen(const Graph& graph, const Op& op) {
  return {DType::float64, graph[op.operands[0]].dtype};
}
std::vector<DType> of_frozen_with_tokens(const Graph& graph, const Op& op) {
  std::vector<DType> types = with_tokens(graph, op);
  types.pop_back();
  return types;
}

double flops(const Graph& graph, const Op& op, const Mesh& mesh) {
  const Value &x = graph[op.operands[0]], &w = graph[op.operands[1]];
  const auto gives = [&](const char* name) { return op.definition->name.find(name) != std::string::npos; };
  const double products = gives("evaluate") ? 2 : gives("frozen") ? 4 : 6;
  return products * static_cast<double>(local_count(x.shape, x.layout, mesh)) * static_cast<double>(w.shape[0]);
}

// x [b, s, e], weight [v, e], labels [b, s], scale (scalar) -> loss sum, dx [b, s, e], dweight [v, e]
const OpRegistration loss_head({.name = "loss_head",
                                .signature = "bse,ve,bs,->,bse,ve",
                                .whole = "ve",
                                .result_types = loss_head_types,
                                .flops = flops,
                                .arithmetic = Arithmetic::products});
// x, weight, labels -> loss sum
const OpRegistration loss_head_evaluate({.name = "loss_head_evaluate",
                                         .signature = "bse,ve,bs->",
                                         .whole = "ve",
                                         .result_types = scalar_type,
                                         .flops = flops,
                                         .arithmetic = Arithmetic::products});
// Either with each token's own loss (0 where the label is ignored), [b, s], behind the sum.
const OpRegistration loss_head_tokens({.name = "loss_head_tokens",
                                       .signature = "bse,ve,bs,->,bs,bse,ve",
                                       .whole = "ve",
                                       .result_types = with_tokens,
                                       .flops = flops,
                                       .arithmetic = Arithmetic::products});
const OpRegistration loss_head_evaluate_tokens({.name = "loss_head_evaluate_tokens",
                                                .signature = "bse,ve,bs->,bs",
                                                .whole = "ve",
                                                .result_types = with_tokens,
                                                .flops = flops,
                                                .arithmetic = Arithmetic::products});
// Of a head that is not trained: no gradient by the weight.
const OpRegistration loss_head_frozen({.name = "loss_head_frozen",
                                       .signature = "bse,ve,bs,->,bse",
                                       .whole = "ve",
                                       .result_types = of_frozen,
                                       .flops = flops,
                                       .arithmetic = Arithmetic::products});
const OpRegistration loss_head_frozen_tokens({.name = "loss_head_frozen_tokens",
                                              .signature = "bse,ve,bs,->,bs,bse",
                                              .whole = "ve",
                                              .result_types = of_frozen_with_tokens,
                                              .flops = flops,
                                              .arithmetic = Arithmetic::products});

}  // namespace
}  // namespace longhaul
