// Muon (Jordan et al. 2024; scaled to AdamW's step as in arXiv 2502.16982), step for step as torch.optim.Muon: a moment
// of the gradient, made orthogonal as a matrix by Newton-Schulz iterations, is what the parameter follows.
#include <algorithm>

#include "ir/builder.h"

namespace longhaul {
namespace {

std::vector<DType> types_of_both(const Graph& graph, const Op& op) {
  return {graph[op.operands[0]].dtype, graph[op.operands[1]].dtype};
}
std::vector<DType> type_of_parameter(const Graph& graph, const Op& op) {
  return {graph[op.operands[0]].dtype};
}

// Five iterations: X XT, its square and the product with X, in multiplications and additions.
double flops(const Graph& graph, const Op& op, const Mesh&) {
  const Shape& shape = graph[op.operands[0]].shape;
  double rows = 1, count = 1;
  for (std::size_t i = 0; i < shape.size(); ++i) count *= static_cast<double>(shape[i]);
  rows = static_cast<double>(op.attributes.integer("rows"));
  const double least = std::min(rows, count / rows);
  return 5 * (4 * least * count + 2 * least * least * least);
}

// first moment, gradient, clip coefficient -> first moment, update. Attributes momentum, nesterov (0 or 1).
const OpRegistration muon_momentum({.name = "muon_momentum",
                                    .signature = "*,*,->*,*",
                                    .pointwise = true,
                                    .result_types = types_of_both,
                                    .in_place = {{0, 0}},
                                    .master_results = {0, 1}});

// Its signature is stated, "ab->ab" or "abc->abc". Attribute rows: of the matrix, the product of the leading
// dimensions. No rank may have a part: every one computes the same.
const OpRegistration orthogonalize({.name = "orthogonalize",
                                    .signature = "",
                                    .whole = "abc",
                                    .flops = flops,
                                    .arithmetic = Arithmetic::products,
                                    .master_results = {0}});

// parameter, update, learning rate -> parameter. Attributes scale (of the update), weight_decay.
const OpRegistration muon_step({.name = "muon_step",
                                .signature = "*,*,->*",
                                .pointwise = true,
                                .result_types = type_of_parameter,
                                .in_place = {{0, 0}},
                                .master_results = {0}});

}  // namespace
}  // namespace longhaul
