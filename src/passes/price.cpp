#include "passes/price.h"

#include <algorithm>

#include "ir/op_definition.h"

namespace longhaul {
namespace {

constexpr double link_factor = 8;  // memory moves so many times the bytes that a link does

}  // namespace

double price_of(const Graph& graph, const Op& op, const Schedule& schedule) {
  if (schedule.seconds) return schedule.seconds(graph, op);
  double bytes = 0, elements = 0;
  for (const ValueId operand : op.operands) bytes += static_cast<double>(local_bytes(graph, operand));
  for (const ValueId result : op.results) {
    bytes += static_cast<double>(local_bytes(graph, result));
    elements += static_cast<double>(local_count(graph[result].shape, graph[result].layout, graph.mesh));
  }
  const double moved = schedule.flops_per_byte * bytes * (op.definition->communication ? link_factor : 1);
  return std::max(moved, op.definition->flops ? op.definition->flops(graph, op, graph.mesh) : elements);
}

std::vector<double> prices_of(const Graph& graph, const Schedule& schedule) {
  std::vector<double> prices;
  for (const Op& op : graph.ops) prices.push_back(price_of(graph, op, schedule));
  return prices;
}

double price_of_copy(const Graph& graph, ValueId value, const Schedule& schedule) {
  return (schedule.seconds ? schedule.seconds_per_host_byte : schedule.flops_per_host_byte) *
         static_cast<double>(local_bytes(graph, value));
}

}  // namespace longhaul
