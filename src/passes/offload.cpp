// offload: values that the forward pass keeps for the backward pass move to host memory in between, as many as
// Schedule::offload_values allows. A copy out starts right behind the value's last use in the forward pass; its wait,
// where the buffer becomes free, stands where the copy will be done by the prices of ops and copies. A copy back starts
// as late as it can and still be done when the value is read: walking backwards through the reads, at the earlier of
// the next copy's start and the read, less its own time. One queue takes all copies of a direction, in order (Half in
// ir/op_definition.h). What would be away for less time than it travels stays, those nearest to the turn first, so that
// no op waits for a link that is slower than the layers between.
// The pass comes after schedule: it decides by the order in which ops run, and nothing moves them any more.
#include "passes/offload.h"

#include <algorithm>
#include <limits>

#include "ir/memory_plan.h"
#include "ir/op_definition.h"
#include "ir/rewrite.h"
#include "passes/pass.h"
#include "passes/price.h"

namespace longhaul {
namespace {

std::size_t at(std::int32_t i) {
  return static_cast<std::size_t>(i);
}

struct Move {
  OffloadCandidate of;
  double price = 0;  // of one way
  // Ops before which these stand; the copy out starts before op of.last_used + 1, the wait for the copy back stands
  // before op of.needed.
  std::int32_t out_done = 0, back_start = 0;
};

// When ops run: op i from time[i] to time[i + 1], if nothing waits.
std::vector<double> times_of(const Graph& graph, const Schedule& schedule) {
  std::vector<double> time{0};
  for (const double price : prices_of(graph, schedule)) time.push_back(time.back() + price);
  return time;
}

// Places copies; `moves` in the order of their last uses, `back` those of their needs.
void place(std::vector<Move>& moves, const std::vector<std::size_t>& back, const std::vector<double>& time) {
  double free = 0;
  for (Move& move : moves) {
    free = std::max(free, time[at(move.of.last_used) + 1]) + move.price;
    move.out_done = static_cast<std::int32_t>(std::lower_bound(time.begin(), time.end(), free) - time.begin());
  }
  double next = std::numeric_limits<double>::max();
  for (std::size_t i = back.size(); i-- > 0;) {
    Move& move = moves[back[i]];
    next = std::min(next, time[at(move.of.needed)]) - move.price;
    move.back_start = static_cast<std::int32_t>(std::upper_bound(time.begin(), time.end(), next) - time.begin()) - 1;
  }
}

// The moves that are worth it, placed, in the order of their last uses.
std::vector<Move> moves_of(const Graph& graph, const Schedule& schedule) {
  std::vector<OffloadCandidate> candidates = offload_candidates(graph);
  if (static_cast<std::int64_t>(candidates.size()) > schedule.offload_values)
    candidates.resize(at(static_cast<std::int32_t>(schedule.offload_values)));
  std::vector<Move> moves;
  for (const OffloadCandidate& one : candidates) moves.push_back({one, price_of_copy(graph, one.value, schedule)});
  std::stable_sort(moves.begin(), moves.end(),
                   [](const Move& a, const Move& b) { return a.of.last_used < b.of.last_used; });
  const std::vector<double> time = times_of(graph, schedule);
  while (true) {
    std::vector<std::size_t> back(moves.size());
    for (std::size_t i = 0; i < back.size(); ++i) back[i] = i;
    std::stable_sort(back.begin(), back.end(),
                     [&](std::size_t a, std::size_t b) { return moves[a].of.needed < moves[b].of.needed; });
    place(moves, back, time);
    const auto stays = std::find_if(moves.rbegin(), moves.rend(), [&](const Move& move) {
      return move.back_start <= move.out_done || time[at(move.back_start)] - time[at(move.out_done)] < 2 * move.price;
    });
    if (stays == moves.rend()) return moves;
    moves.erase(std::next(stays).base());
  }
}

}  // namespace

std::vector<OffloadCandidate> offload_candidates(const Graph& graph) {
  const auto turn = static_cast<std::int32_t>(
      std::find_if(graph.ops.begin(), graph.ops.end(), [](const Op& op) { return op.phase == Phase::backward; }) -
      graph.ops.begin());
  const auto use = uses(graph);
  std::vector<char> is_output(graph.values.size(), 0);
  for (const auto& output : graph.outputs) is_output[at(output.value)] = 1;
  std::vector<OffloadCandidate> list;
  for (std::int32_t i = 0; i < turn; ++i) {
    const Op& op = graph.ops[at(i)];
    for (std::size_t k = 0; k < op.results.size(); ++k) {
      const ValueId value = op.results[k];
      if (is_output[at(value)] || graph[value].shape.empty() ||
          (op.definition->communication && k < op.operands.size() && holds_parameter(graph[op.operands[k]].role)))
        continue;
      OffloadCandidate one{
          value, (local_bytes(graph, value) + buffer_alignment - 1) / buffer_alignment * buffer_alignment, i, -1};
      for (const std::int32_t user : use[at(value)])
        if (user < turn)
          one.last_used = user;
        else if (one.needed < 0)
          one.needed = user;
      if (one.needed >= 0) list.push_back(one);
    }
  }
  std::stable_sort(list.begin(), list.end(), [](const OffloadCandidate& a, const OffloadCandidate& b) {
    return a.needed != b.needed ? a.needed > b.needed : a.bytes > b.bytes;
  });
  return list;
}

namespace passes {

void offload(Graph& graph, const PassContext& context) {
  const Schedule& schedule = context.options.schedule;
  if (!is_accumulate(context.kind) || schedule.offload_values <= 0) return;
  const std::vector<Move> moves = moves_of(graph, schedule);
  if (moves.empty()) return;
  // What stands before each op; the lists of a direction are in the order of its queue.
  struct Before {
    std::vector<ValueId> out_done, out_start, back_start, back_done;
  };
  std::vector<Before> before(graph.ops.size() + 1);
  for (const Move& move : moves) {
    before[at(move.of.last_used) + 1].out_start.push_back(move.of.value);
    before[at(move.out_done)].out_done.push_back(move.of.value);
  }
  std::vector<const Move*> back;
  for (const Move& move : moves) back.push_back(&move);
  std::stable_sort(back.begin(), back.end(), [](const Move* a, const Move* b) { return a->of.needed < b->of.needed; });
  for (const Move* move : back) {
    before[at(move->back_start)].back_start.push_back(move->of.value);
    before[at(move->of.needed)].back_done.push_back(move->of.value);
  }

  const auto maker = definitions(graph);
  const std::vector<Op> original = graph.ops;
  struct Copies {
    ValueId staging = no_value, host = no_value, returned = no_value;
  };
  std::vector<Copies> copies(graph.values.size());
  Builder builder(graph, "offload");
  builder.place_results(true);
  const auto emit = [&](std::string_view name, ValueId of, std::vector<ValueId> operands) {
    return builder.one(name, std::move(operands), {}, {.name = graph[of].name});
  };
  std::size_t i = 0;
  rewrite(graph, [&](Op& op) {
    const auto out_phase = [&](ValueId value) { builder.at(Phase::forward, original[at(maker[at(value)])].layer); };
    for (const ValueId value : before[i].out_done) {
      out_phase(value);
      copies[at(value)].host = emit("offload.wait", value, {copies[at(value)].staging, value});
    }
    for (const ValueId value : before[i].out_start) {
      out_phase(value);
      copies[at(value)].staging = emit("offload.start", value, {value});
    }
    for (const ValueId value : before[i].back_start) {
      builder.at(Phase::backward, original[at(maker[at(value)])].layer);
      copies[at(value)].staging = emit("reload.start", value, {copies[at(value)].host});
    }
    for (const ValueId value : before[i].back_done) {
      builder.at(Phase::backward, original[at(maker[at(value)])].layer);
      Copies& one = copies[at(value)];
      one.returned = emit("reload.wait", value, {one.staging, one.host});
    }
    for (ValueId& operand : op.operands)
      if (at(operand) < copies.size() && copies[at(operand)].returned != no_value)
        operand = copies[at(operand)].returned;
    graph.ops.push_back(std::move(op));
    ++i;
  });
}

}  // namespace passes
}  // namespace longhaul
