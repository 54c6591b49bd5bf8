// Rows of blocks: what ranks that hold blocks of a sequence (dimension 1, `blocks` equal blocks) give each other of
// their keys when a window reaches only some, the sum that brings gradients back, and rows that are worked through tile
// by tile. On a rank, which holds one block, each is a plain copy or sum of rows; on one device the blocks are looped
// over.
#include "ir/builder.h"

namespace longhaul {
namespace {

// take_rows: all letters as the operand has them; the result's row letter stands where the operand's does.
Factors taken(const Graph&, const Op& op, const std::vector<Layout>& have) {
  Factors factors;
  const std::string& letters = op.signature->operands[0];
  for (std::size_t k = 0; k < letters.size(); ++k) factors[letters[k]] = have[0].dimensions[k];
  factors[op.signature->results[0][1]] = have[0].dimensions[1];
  return factors;
}

// join_rows, add_rows: operand k's rows are rotated by steps[k] against those of the result.
Factors moved(const Op& op, const std::vector<Layout>& have, const std::vector<double>& steps) {
  Factors factors;
  const AxisList rows = have[0].dimensions[1].axes;
  const std::string& letters = op.signature->operands[0];
  for (std::size_t k = 0; k < letters.size(); ++k) factors[letters[k]] = have[0].dimensions[k];
  for (std::size_t i = 0; i < op.operands.size(); ++i)
    factors[op.signature->operands[i][1]] = {rows, static_cast<int>(steps[i])};
  factors[op.signature->results[0][1]] = {rows, 0};
  return factors;
}
Factors joined(const Graph&, const Op& op, const std::vector<Layout>& have) {
  return moved(op, have, op.attributes.numbers("steps"));
}
Factors added(const Graph&, const Op& op, const std::vector<Layout>& have) {
  return moved(op, have, {0, op.attributes.number("step")});
}

std::vector<DType> types(const Graph& graph, const Op& op) {
  return {graph[op.operands[0]].dtype};  // indices too
}
double no_flops(const Graph&, const Op&, const Mesh&) {
  return 0;
}
double added_flops(const Graph& graph, const Op& op, const Mesh& mesh) {
  const Value& part = graph[op.operands[1]];
  return static_cast<double>(local_count(part.shape, part.layout, mesh));
}

double taken_bytes(const Graph& graph, const Op& op) {
  return 2.0 * static_cast<double>(local_bytes(graph, op.results[0]));
}
double added_bytes(const Graph& graph, const Op& op) {
  return 3.0 * static_cast<double>(local_bytes(graph, op.operands[1]));
}
double put_bytes(const Graph& graph, const Op& op) {
  return 2.0 * static_cast<double>(local_bytes(graph, op.operands[1]));
}

// [b, blocks·r, ...] -> [b, blocks·rows, ...]: rows [from, from + rows) of each block. Signature "bt...->bu...".
const OpRegistration take({.name = "take_rows",
                           .signature = "",
                           .result_types = types,
                           .factors = taken,
                           .flops = no_flops,
                           .moved = taken_bytes});

// Block i of the result is block (i − steps[k]) mod blocks of every operand k, one behind the other.
const OpRegistration join(
    {.name = "join_rows", .signature = "", .result_types = types, .factors = joined, .flops = no_flops});

// x, y -> x with block (i − step) mod blocks of y added to rows [from, from + rows of y's block) of every block i.
const OpRegistration add({.name = "add_rows",
                          .signature = "",
                          .factors = added,
                          .flops = added_flops,
                          .moved = added_bytes,
                          .in_place = {{0, 0}}});

// x, y -> x with rows [from, from + rows of y's block) of every block replaced by block i of y.
const OpRegistration put({.name = "put_rows",
                          .signature = "",
                          .result_types = types,
                          .factors = added,
                          .flops = no_flops,
                          .moved = put_bytes,
                          .in_place = {{0, 0}}});

}  // namespace
}  // namespace longhaul
