// Contractions of two operands with any letters: one op is a projection forward, its input gradient and its weight
// gradient.
#include "ir/builder.h"

namespace longhaul {
namespace {

std::vector<ValueId> gradient(Builder& builder, const Op& op, const std::vector<ValueId>& result_gradients) {
  const Signature& s = *op.signature;
  const ValueId dy = result_gradients[0];
  return {builder.einsum(s.results[0] + "," + s.operands[1] + "->" + s.operands[0], dy, op.operands[1]),
          builder.einsum(s.results[0] + "," + s.operands[0] + "->" + s.operands[1], dy, op.operands[0])};
}

// 2 · the product of all letters' local sizes.
double flops(const Graph& graph, const Op& op, const Mesh& mesh) {
  double product = 2;
  std::string seen;
  for (std::size_t i = 0; i < 2; ++i) {
    const Value& operand = graph[op.operands[i]];
    const Shape local = local_shape(operand.shape, operand.layout, mesh);
    if (local.size() != operand.shape.size()) return 0;
    for (std::size_t k = 0; k < local.size(); ++k) {
      const char letter = op.signature->operands[i][k];
      if (seen.find(letter) != std::string::npos) continue;
      seen += letter;
      product *= static_cast<double>(local[k]);
    }
  }
  return product;
}

const OpRegistration einsum(
    {.name = "einsum", .signature = "", .gradient = gradient, .flops = flops, .arithmetic = Arithmetic::products});

// einsum of operands 0 and 1, plus operand 2 (the result's letters): an accumulator or residual folded into the
// product. Made by fuse.
const OpRegistration einsum_add({.name = "einsum_add",
                                 .signature = "",
                                 .contracted_whole = true,
                                 .flops = flops,
                                 .arithmetic = Arithmetic::products,
                                 .in_place = {{0, 2}}});

// The same onto an operand that is as much of a sum as the product: a weight's gradient so far, when rows are split
// over ranks. Made by tile_mlp.
const OpRegistration einsum_accumulate({.name = "einsum_accumulate",
                                        .signature = "",
                                        .flops = flops,
                                        .arithmetic = Arithmetic::products,
                                        .in_place = {{0, 2}},
                                        .onto = 2});

}  // namespace
}  // namespace longhaul
