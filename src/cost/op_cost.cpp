#include "cost/op_cost.h"

#include <algorithm>

#include "base/error.h"
#include "ir/op_definition.h"

namespace longhaul {

double moved_bytes(const Graph& graph, const Op& op) {
  if (op.definition->moved) return op.definition->moved(graph, op);
  double bytes = 0;
  for (const auto* values : {&op.operands, &op.results})
    for (const ValueId value : *values) bytes += static_cast<double>(local_bytes(graph, value));
  return bytes;
}

std::string_view name_of(Work work) {
  static constexpr std::string_view names[works] = {"matrix products", "attention", "memory", "links inside a host",
                                                    "network"};
  return names[static_cast<std::size_t>(work)];
}

double mean_visible_keys(double keys, double window, double document) {
  const double length = document > 0 ? std::min(keys, document) : keys;
  if (window <= 0 || window >= length) return (length + 1) / 2;
  return window - window * (window - 1) / (2 * length);
}

double CostModel::memory_seconds(const Op& op, double bytes) const {
  const auto own = profile_.op_bandwidth.find(op.definition->name);
  return bytes / (own == profile_.op_bandwidth.end() ? profile_.bandwidth : own->second);
}

OpCost CostModel::cost(const Graph& graph, const Op& op) const {
  if (op.definition->communication && op.definition->half == Half::wait) return {};  // its start's
  if (op.definition->communication) return reshard_cost(graph, op);
  const double moved = moved_bytes(graph, op);
  OpCost cost;
  switch (op.definition->arithmetic) {
    case Arithmetic::products:
      cost = {Work::products, product_seconds(graph, op, moved)};
      break;
    case Arithmetic::attention:
    case Arithmetic::attention_gradient:
      cost = {Work::attention, attention_seconds(graph, op, moved)};
      break;
    case Arithmetic::elements:
      cost = {Work::memory, memory_seconds(op, moved)};
      break;
  }
  cost.seconds += profile_.launch;
  return cost;
}

double CostModel::product_seconds(const Graph& graph, const Op& op, double moved) const {
  const DType type = graph[op.operands[0]].dtype;
  const auto product = profile_.products.find(type);
  if (product == profile_.products.end())
    fail(
        "the profile {} has no products of {}, which {} computes: set training.dtype to one that it has, or add "
        "products.{} to it",
        profile_.name, name_of(type), op.definition->name, name_of(type));
  const double flops = op.definition->flops(graph, op, graph.mesh);
  const double rate = product->second.peak * product->second.efficiency.at(flops);
  return std::max(flops / rate, moved / profile_.bandwidth);
}

double CostModel::attention_seconds(const Graph& graph, const Op& op, double moved) const {
  const Value &q = graph[op.operands[0]], &k = graph[op.operands[1]];
  // A block's result may be wider than what is multiplied.
  const auto attention = profile_.attention.find(q.dtype);
  if (attention == profile_.attention.end())
    fail(
        "the profile {} has no attention in {}, which {} computes: set training.dtype to one that it has, or add "
        "attention.{} to it",
        profile_.name, name_of(q.dtype), op.definition->name, name_of(q.dtype));
  const AttentionProfile& rate = attention->second;
  const bool backward = op.definition->arithmetic == Arithmetic::attention_gradient;
  const Shape ql = local_shape(q.shape, q.layout, graph.mesh);
  // Keys of the whole sequence; the definition counts what is visible of those that the op has, as of one document.
  const double keys = static_cast<double>(k.shape[1]), window = static_cast<double>(op.attributes.integer("window"));
  const double share =
      mean_visible_keys(keys, window, static_cast<double>(use_.document)) / mean_visible_keys(keys, window, 0);
  const double pairs = op.definition->flops(graph, op, graph.mesh) * share * use_.attention_share;
  // Tiles at the edge of what is visible are computed whole: half of one for each query, and of another at a window.
  const double edges = window > 0 && window < keys ? 2 : 1;
  const double per_key = (backward ? 2.5 : 1) * 4 * static_cast<double>(ql[0] * ql[1] * ql[2] * ql[3]);
  const double tiles = per_key * edges * static_cast<double>(std::min<std::int64_t>(rate.tile, k.shape[1])) / 2;
  const double speed = (backward ? rate.backward : rate.forward).at(static_cast<double>(ql[3]));
  return std::max((pairs + tiles) / speed, moved / profile_.bandwidth);
}

}  // namespace longhaul
