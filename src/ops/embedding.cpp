// Rows of a table: token embeddings and learned positions.
#include "ir/builder.h"

namespace longhaul {
namespace {

std::vector<ValueId> gradient(Builder& builder, const Op& op, const std::vector<ValueId>& result_gradients) {
  const Value& table = builder.graph()[op.operands[1]];
  return {no_value, builder.one("embedding_gradient", {op.operands[0], result_gradients[0]}, {},
                                {.signature = "", .result_shapes = {table.shape}, .result_types = {}, .name = ""})};
}

// Of a table only the rows that occur are touched: read and written; gradients are read, and their rows' sums as well.
double read_rows(const Graph& graph, const Op& op) {
  return 2.0 * static_cast<double>(local_bytes(graph, op.results[0]));
}
double added_rows(const Graph& graph, const Op& op) {
  return 3.0 * static_cast<double>(local_bytes(graph, op.operands[1]));
}

// indices [b, s] int32, table [v, d] -> [b, s, d]
const OpRegistration embedding(
    {.name = "embedding", .signature = "bs,vd->bsd", .whole = "v", .gradient = gradient, .moved = read_rows});
// indices [b, s], gradient [b, s, d] -> [v, d]: rows summed by index
const OpRegistration embedding_gradient({.name = "embedding_gradient", .signature = "bs,bsd->vd", .whole = "v"});
// The same added to operand 2 [v, d]: only the rows that occur are touched when the buffer is the addend's. Made by
// fuse.
const OpRegistration embedding_gradient_add({.name = "embedding_gradient_add",
                                             .signature = "bs,bsd,vd->vd",
                                             .whole = "v",
                                             .contracted_whole = true,
                                             .moved = added_rows,
                                             .in_place = {{0, 2}}});

}  // namespace
}  // namespace longhaul
