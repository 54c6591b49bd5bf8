// Collectives: bytes by the formulas of comm/communicator.h, those that stay on a host over its links and those that do
// not over the network. Other groups send at the same time; each rank has links of its own.
#include <algorithm>

#include "base/error.h"
#include "cost/op_cost.h"
#include "ir/layout_change.h"
#include "ir/op_definition.h"

namespace longhaul {

// One tensor from one layout to another by one collective.
struct CostModel::Move {
  std::string_view op;
  AxisList axes;
  int dimension = -1, split = -1, by = 0;
  Shape before, after;  // on a rank
  double element = 4;   // bytes
};

namespace {

double bytes_of(const Shape& shape, double element) {
  return element * static_cast<double>(element_count(shape));
}

// Whether blocks along a dimension lie one behind the other.
bool in_pieces(const Shape& shape, int dimension) {
  for (int i = 0; i < dimension; ++i)
    if (shape[static_cast<std::size_t>(i)] != 1) return true;
  return false;
}

}  // namespace

CostModel::Group CostModel::group_of(const Mesh& mesh, const AxisList& axes) const {
  if (!(mesh_ == mesh)) {
    mesh_ = mesh;
    groups_.clear();
  }
  if (const auto known = groups_.find(axes); known != groups_.end()) return known->second;
  Group& group = groups_[axes];
  group.ranks = mesh.count(axes);
  group.here = group.ranks;
  while (1 << group.doublings < group.ranks) ++group.doublings;
  const auto per_host = static_cast<int>(std::min<std::int64_t>(use_.ranks_per_host, mesh.world()));
  if (per_host == mesh.world()) return group;
  for (int rank = 0; rank < mesh.world(); ++rank) {
    const std::vector<int> members = mesh.group(axes, rank);
    const auto here =
        std::count_if(members.begin(), members.end(), [&](int member) { return member / per_host == rank / per_host; });
    group.here = std::min(group.here, static_cast<int>(here));
  }
  return group;
}

OpCost CostModel::move_cost(const Mesh& mesh, const Move& move) const {
  const double before = bytes_of(move.before, move.element), after = bytes_of(move.after, move.element);
  if (move.op == "slice") return {Work::memory, 2 * after / profile_.bandwidth + profile_.launch};
  const Group group = group_of(mesh, move.axes);
  if (group.ranks == 1) return {Work::memory, profile_.launch};
  const bool across = group.here < group.ranks, sums = move.op == "reduce_scatter" || move.op == "all_reduce";
  if (across && !profile_.network)
    fail(
        "the profile {} has no links.network, and {} ranks of a collective are on hosts of {}: give more ranks per "
        "host, or add links.network to it",
        profile_.name, group.ranks, use_.ranks_per_host);
  const double others = group.ranks - 1, elsewhere = group.ranks - group.here, here = group.here;
  // Bytes that a rank sends: to ranks of its host, and to others. What all need is sent to a host once and handed on.
  double inside = 0, outside = 0;
  if (move.op == "all_to_all") {
    const double block = before / group.ranks;
    inside = (here - 1) * block;
    outside = elsewhere * block;
  } else if (move.op == "shift") {
    (across ? outside : inside) = before;
  } else {
    const double block = move.op == "all_gather"       ? before
                         : move.op == "reduce_scatter" ? after
                                                       : 2 * before / group.ranks;
    inside = here > 1 ? others * block : 0;
    outside = elsewhere * block / here;
  }
  double seconds = inside / (sums ? profile_.host.reducing : profile_.host.bandwidth);
  if (across) seconds = std::max(seconds, outside / (sums ? profile_.network->reducing : profile_.network->bandwidth));
  seconds += group.doublings * (across ? profile_.network->latency : profile_.host.latency);
  // Copies into what is sent and out of what is received.
  double copied = 0;
  if (move.op == "all_to_all")
    copied = (in_pieces(move.before, move.split) ? before : 0) + (in_pieces(move.after, move.dimension) ? after : 0);
  if (move.op == "all_gather" && in_pieces(move.after, move.dimension)) copied = after;
  if (move.op == "reduce_scatter" && in_pieces(move.before, move.dimension)) copied = before;
  seconds += 2 * copied / profile_.bandwidth + profile_.launch;
  return {across ? Work::network : Work::host_links, seconds};
}

OpCost CostModel::reshard_cost(const Graph& graph, const Op& op) const {
  const Mesh& mesh = graph.mesh;
  OpCost cost{Work::memory, 0};
  const auto add = [&](const OpCost& one) {
    cost.work = std::max(cost.work, one.work);
    cost.seconds += one.seconds;
  };
  if (!op.is("reshard")) {
    // Several tensors travel in one message.
    for (std::size_t i = 0; i < op.results.size(); ++i) {
      const Value &from = graph[moved_operand(op, i)], &to = graph[op.results[i]];
      add(move_cost(
          mesh, {pair_name(op), op.attributes.axes("axes"), static_cast<int>(op.attributes.integer("dimension", -1)),
                 static_cast<int>(op.attributes.integer("split", -1)), static_cast<int>(op.attributes.integer("by")),
                 local_shape(from.shape, from.layout, mesh), local_shape(to.shape, to.layout, mesh),
                 static_cast<double>(size_of(from.dtype))}));
    }
    const double more = static_cast<double>(op.results.size()) - 1;
    const Group group = group_of(mesh, op.attributes.axes("axes"));
    const double latency = cost.work == Work::network      ? profile_.network->latency
                           : cost.work == Work::host_links ? profile_.host.latency
                                                           : 0;
    cost.seconds -= more * (profile_.launch + group.doublings * latency);
    return cost;
  }
  const Value &from = graph[op.operands[0]], &to = graph[op.results[0]];
  Layout layout = from.layout;
  while (const auto step = next_layout_change(layout, to.layout, from.shape, mesh)) {
    add(move_cost(mesh,
                  {step->op, step->axes, step->dimension, step->split, step->by, local_shape(from.shape, layout, mesh),
                   local_shape(from.shape, step->after, mesh), static_cast<double>(size_of(from.dtype))}));
    layout = step->after;
  }
  return cost;
}

}  // namespace longhaul
