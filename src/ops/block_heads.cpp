// Heads of blocks: attention that works through the heads of each rank in chunks takes them out of tensors and puts
// them back. Heads are dimension 2, `block` of them a rank's; a tensor that holds the heads of several ranks (that is
// not split by heads) has as many blocks, one that is split by heads has one on a rank.
#include "ir/builder.h"

namespace longhaul {
namespace {

// All letters as the first operand has them; the letter of the part's heads is split as that of the whole.
Factors of_whole(const Op& op, const std::vector<Layout>& have, char part) {
  Factors factors;
  const std::string& letters = op.signature->operands[0];
  for (std::size_t k = 0; k < letters.size(); ++k) factors[letters[k]] = have[0].dimensions[k];
  factors[part] = have[0].dimensions[2];
  return factors;
}
Factors taken(const Graph&, const Op& op, const std::vector<Layout>& have) {
  return of_whole(op, have, op.signature->results[0][2]);
}
Factors put_back(const Graph&, const Op& op, const std::vector<Layout>& have) {
  return of_whole(op, have, op.signature->operands[1][2]);
}

std::vector<DType> types(const Graph& graph, const Op& op) {
  return {graph[op.operands[0]].dtype};
}
double no_flops(const Graph&, const Op&, const Mesh&) {
  return 0;
}
double taken_bytes(const Graph& graph, const Op& op) {
  return 2.0 * static_cast<double>(local_bytes(graph, op.results[0]));
}
double put_bytes(const Graph& graph, const Op& op) {
  return 2.0 * static_cast<double>(local_bytes(graph, op.operands[1]));
}

// [b, t, blocks·block, ...] -> [b, t, blocks·heads, ...]: heads [from, from + heads) of each block. Signature
// "bth...->bti...".
const OpRegistration take({.name = "take_heads",
                           .signature = "",
                           .result_types = types,
                           .factors = taken,
                           .flops = no_flops,
                           .moved = taken_bytes});

// x, y -> x with heads [from, from + heads of y's block) of every block replaced by those of y. Signature
// "bth...,bti...->bth...".
const OpRegistration put({.name = "put_heads",
                          .signature = "",
                          .result_types = types,
                          .factors = put_back,
                          .flops = no_flops,
                          .moved = put_bytes,
                          .in_place = {{0, 0}}});

}  // namespace
}  // namespace longhaul
