// place_casts: a tensor that is rounded after a collective that only moves it is rounded before it, and one that is
// widened before such a collective is widened after it: the same numbers, and fewer bytes on the way. dK and dV under
// heads that are split and keys that are gathered are the case: summed in float32, rounded once, then exchanged.
// Sums (reduce_scatter, all_reduce) are never passed: a partial sum is not to be rounded.
#include <vector>

#include "ir/rewrite.h"
#include "passes/pass.h"

namespace longhaul::passes {
namespace {

bool only_moves(const Op& op) {
  return op.definition->communication && !op.is("reduce_scatter") && !op.is("all_reduce") && !op.is("reshard") &&
         op.operands.size() == 1;
}

class CastPlacement {
 public:
  explicit CastPlacement(Graph& graph)
      : graph_(graph), use_(uses(graph)), definition_(definitions(graph)), is_output_(graph.values.size(), 0) {
    for (const auto& output : graph.outputs) is_output_[at(output.value)] = 1;
  }

  void run() {
    for (std::int32_t i = 0; i < static_cast<std::int32_t>(graph_.ops.size()); ++i) {
      const Op& cast = op(i);
      if (!cast.is("cast") || cast.attributes.integer("for_reduction")) continue;
      const auto from = size_of(graph_[cast.operands[0]].dtype), to = size_of(graph_[cast.results[0]].dtype);
      if (to < from) narrow_earlier(i);
      if (to > from) widen_later(i);
    }
    emit();
  }

 private:
  static std::size_t at(std::int32_t id) { return static_cast<std::size_t>(id); }
  Op& op(std::int32_t i) { return graph_.ops[at(i)]; }

  // The value is read by one op and nothing else, so that it may change.
  bool only_link(ValueId value) const {
    return at(value) < use_.size() && use_[at(value)].size() == 1 && !is_output_[at(value)];
  }

  // The moves that lead to the cast become narrow from the first collective among them on.
  void narrow_earlier(std::int32_t cast) {
    std::vector<std::int32_t> moves;  // from the cast backwards, up to the last that is no slice
    std::size_t wanted = 0;
    for (ValueId value = op(cast).operands[0]; only_link(value); value = op(moves.back()).operands[0]) {
      const std::int32_t maker = definition_[at(value)];
      if (maker < 0 || !only_moves(op(maker)) || op(maker).results[0] != value) break;  // another cast's now
      moves.push_back(maker);
      if (!op(maker).is("slice")) wanted = moves.size();
    }
    if (wanted == 0) return;
    moves.resize(wanted);
    const DType narrow = graph_[op(cast).results[0]].dtype;
    Op& first = op(moves.back());
    const ValueId rounded = copy_of(first.operands[0], narrow);
    for (const std::int32_t move : moves) graph_[op(move).results[0]].dtype = narrow;
    op(moves.front()).results[0] = op(cast).results[0];
    place(cast, moves.back(), first.operands[0], rounded);
    first.operands[0] = rounded;
  }

  // The moves that follow the cast carry what it was made from; the last one's result is widened.
  void widen_later(std::int32_t cast) {
    std::vector<std::int32_t> moves;
    bool saves = false;
    for (ValueId value = op(cast).results[0]; only_link(value); value = op(moves.back()).results[0]) {
      const std::int32_t user = use_[at(value)][0];
      if (!only_moves(op(user)) || op(user).operands[0] != value) break;
      moves.push_back(user);
      saves |= !op(user).is("slice");
    }
    if (!saves) return;
    const ValueId narrow = op(cast).operands[0];
    Op& last = op(moves.back());
    const ValueId moved = copy_of(last.results[0], graph_[narrow].dtype);
    graph_[moved].pinned.reset();
    for (const std::int32_t move : moves) graph_[op(move).results[0]].dtype = graph_[narrow].dtype;
    graph_[last.results[0]].dtype = graph_[op(cast).results[0]].dtype;
    op(moves.front()).operands[0] = narrow;
    const ValueId wide = last.results[0];
    last.results[0] = moved;
    // Before whatever comes after the last move.
    place(cast, moves.back() + 1, moved, wide);
  }

  ValueId copy_of(ValueId value, DType dtype) {
    const Value from = graph_[value];
    const ValueId copy = graph_.add_value(from.name, from.shape, dtype);
    graph_[copy].layout = from.layout;
    graph_[copy].primal = from.primal;
    return copy;
  }

  // The cast, now from `operand` to `result`, is to stand before op `place`.
  void place(std::int32_t cast, std::int32_t place, ValueId operand, ValueId result) {
    op(cast).operands = {operand};
    op(cast).results = {result};
    placed_.push_back({place, cast});
  }

  void emit() {
    if (placed_.empty()) return;
    const std::size_t n = graph_.ops.size();
    std::vector<std::vector<std::size_t>> standing_before(n + 1);
    std::vector<char> gone(n, 0);  // casts that stand elsewhere now
    for (const auto& [place, cast] : placed_) {
      standing_before[at(place)].push_back(at(cast));
      gone[at(cast)] = 1;
    }
    std::vector<std::size_t> order;
    for (std::size_t i = 0; i <= n; ++i) {
      order.insert(order.end(), standing_before[i].begin(), standing_before[i].end());
      if (i < n && !gone[i]) order.push_back(i);
    }
    select_ops(graph_, order);
  }

  Graph& graph_;
  const std::vector<std::vector<std::int32_t>> use_;
  const std::vector<std::int32_t> definition_;
  std::vector<char> is_output_;
  std::vector<std::pair<std::int32_t, std::int32_t>> placed_;  // before which op, and the cast
};

}  // namespace

void place_casts(Graph& graph, const PassContext&) {
  CastPlacement(graph).run();
}

}  // namespace longhaul::passes
