// The rows of a cache that new tokens take: keys and values of tokens that are not computed again (generation).
#include "ir/builder.h"

namespace longhaul {
namespace {

std::vector<DType> types(const Graph& graph, const Op& op) {
  return {graph[op.operands[0]].dtype};
}
double no_flops(const Graph&, const Op&, const Mesh&) {
  return 0;
}

double stored_bytes(const Graph& graph, const Op& op) {
  return 2.0 * static_cast<double>(local_bytes(graph, op.operands[1]));
}

// cache [b, t, g, d], rows [b, s, g, d], index [b, s] int32 -> the cache with row index[b, i] replaced by rows[b, i];
// rows whose index is not in [0, t) go nowhere. Indices of one sequence differ.
const OpRegistration store_rows({.name = "store_rows",
                                 .signature = "btgd,bsgd,bs->btgd",
                                 .whole = "tsgd",
                                 .result_types = types,
                                 .flops = no_flops,
                                 .moved = stored_bytes,
                                 .in_place = {{0, 0}}});

}  // namespace
}  // namespace longhaul
