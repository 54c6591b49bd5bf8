// overlap: collectives run beside the computation that does not need them. Each that can becomes two halves: the start
// as late as it can be and still done when its result is needed, behind what precedes it on its link (Half in
// ir/op_definition.h); the wait where it will be done, or where the result is needed if that comes first. So weights
// are gathered under the layer before theirs, gradients summed under the next layer's backward pass, and a ring's next
// block comes while the last one is worked on. What is light and only hands a result on (a cast, the sum into an
// accumulator) comes with the wait; starts and waits of a link keep the order that the collectives had, so that each
// link is a FIFO and no schedule of this kind can hang (docs/ir.md). A collective takes only the memory that is there
// (Schedule::overlap_memory): it starts later, and is waited for earlier, where the program holds much; one that has
// nothing left to run beside stays whole. The pass is the last: it decides by the order in which ops run.
#include <algorithm>
#include <array>
#include <map>

#include "ir/memory_plan.h"
#include "ir/op_definition.h"
#include "ir/rewrite.h"
#include "passes/pass.h"
#include "passes/price.h"

namespace longhaul::passes {
namespace {

// A start leaves its collective so many times the time that it takes, by its price, and a wait comes so much later.
constexpr double start_margin = 1.1, wait_margin = 1.3;

std::size_t at(std::int32_t i) {
  return static_cast<std::size_t>(i);
}

std::int64_t buffer_bytes(const Graph& graph, ValueId value) {
  return (local_bytes(graph, value) + buffer_alignment - 1) / buffer_alignment * buffer_alignment;
}

class Overlap {
 public:
  Overlap(Graph& graph, const PassContext& context)
      : graph_(graph),
        schedule_(context.options.schedule),
        live_(context.live),
        count_(static_cast<std::int32_t>(graph.ops.size())),
        maker_(definitions(graph)) {}

  void run() {
    find_moves();
    if (moves_.empty()) return;
    find_needs();
    place_starts();
    place_waits();
    fit_into_memory();
    leave_whole();
    if (moves_.empty()) return;
    keep_order();
    emit_all();
  }

 private:
  // A collective, by its place in the program. It starts before op `start` and is waited for before op `wait`.
  struct Move {
    std::int32_t op = 0;
    const OpDefinition *start_op = nullptr, *wait_op = nullptr;
    double price = 0;
    std::int32_t needed = 0;  // the first op that cannot do without it
    std::int32_t start = 0, wait = 0;
    bool started = false, waited = false;
    std::vector<ValueId> staging;
  };
  using Moves = std::map<std::int32_t, Move>;

  void find_moves() {
    const std::vector<double> prices = prices_of(graph_, schedule_);
    std::vector<char> comes(graph_.values.size(), 0);  // by a collective, or light ops behind one
    light_.assign(graph_.ops.size(), 0);
    time_.assign(1, 0);
    for (std::int32_t i = 0; i < count_; ++i) {
      const Op& op = graph_.ops[at(i)];
      const OpDefinition* start = op.definition->half == Half::none ? start_of(*op.definition) : nullptr;
      const bool moves = op.definition->communication && start && graph_.mesh.count(op.attributes.axes("axes")) > 1;
      if (moves)
        moves_[i] = {i, start, find_op(op.definition->name + ".wait"), prices[at(i)], count_, i, i, {}, {}, {}};
      const bool behind =
          std::any_of(op.operands.begin(), op.operands.end(), [&](ValueId id) { return comes[at(id)]; });
      light_[at(i)] = !moves && behind && op.phase != Phase::update && op.results.size() == 1 &&
                      (op.definition->pointwise || op.is("slice")) && op.definition->half == Half::none;
      if (moves || light_[at(i)])
        for (const ValueId result : op.results) comes[at(result)] = 1;
      time_.push_back(time_.back() + (moves || light_[at(i)] ? 0 : prices[at(i)]));
    }
  }

  // The first op that needs each collective, light ones and other collectives in between.
  void find_needs() {
    std::vector<std::int32_t> need(graph_.values.size(), count_);
    for (std::int32_t i = count_; i-- > 0;) {
      const Op& op = graph_.ops[at(i)];
      const auto move = moves_.find(i);
      std::int32_t first = i;
      if (light_[at(i)] || move != moves_.end()) {
        first = count_;
        for (const ValueId result : op.results) first = std::min(first, need[at(result)]);
      }
      if (move != moves_.end()) move->second.needed = first;
      for (const ValueId operand : op.operands) need[at(operand)] = std::min(need[at(operand)], first);
    }
  }

  // Before which op a collective can start at the earliest.
  std::int32_t ready(const Move& move) const {
    std::int32_t first = 0;
    for (const ValueId operand : graph_.ops[at(move.op)].operands) {
      const std::int32_t maker = maker_[at(operand)];
      if (maker < 0) continue;
      const auto before = moves_.find(maker);
      first = std::max(first, before != moves_.end() ? std::min(move.op, before->second.needed)
                              : light_[at(maker)]    ? move.op
                                                     : maker + 1);
    }
    return first;
  }

  // Backwards on each link: as late as it can be done in time, before what comes behind it.
  void place_starts() {
    std::map<std::string_view, double> next;
    for (auto entry = moves_.rbegin(); entry != moves_.rend(); ++entry) {
      Move& move = entry->second;
      double& link = next.try_emplace(move.start_op->queue, time_.back()).first->second;
      link = std::min(link, time_[at(move.needed)]) - start_margin * move.price;
      const auto latest =
          static_cast<std::int32_t>(std::upper_bound(time_.begin(), time_.end(), link) - time_.begin()) - 1;
      move.start = std::min(std::max(latest, ready(move)), move.op);
    }
    std::map<std::string_view, std::int32_t> last;
    for (auto& [i, move] : moves_) {
      std::int32_t& link = last[move.start_op->queue];
      move.start = link = std::max(link, move.start);
    }
  }

  // Forwards on each link: when it will be done, at the latest when it is needed. What is gathered of buffers that are
  // there anyway frees nothing by an earlier wait.
  void place_waits() {
    std::map<std::string_view, double> free;
    for (auto& [i, move] : moves_) {
      double begin = time_[at(move.start)];
      bool of_buffers = true;
      for (const ValueId operand : graph_.ops[at(i)].operands) {
        const std::int32_t maker = maker_[at(operand)];
        of_buffers &= maker < 0;
        if (const auto before = moves_.find(maker); before != moves_.end())
          begin = std::max(begin, time_[at(before->second.wait)]);
      }
      double& link = free[move.start_op->queue];
      link = std::max(link, begin) + move.price;
      const double done = link + (wait_margin - 1) * move.price;
      const auto behind = static_cast<std::int32_t>(std::lower_bound(time_.begin(), time_.end(), done) - time_.begin());
      move.wait = of_buffers ? move.needed : std::min(move.needed, std::max(behind, move.start));
    }
    keep_order();
  }

  void keep_order() {
    std::map<std::string_view, std::int32_t> next;
    for (auto entry = moves_.rbegin(); entry != moves_.rend(); ++entry) {
      Move& move = entry->second;
      std::int32_t& link = next.try_emplace(move.start_op->queue, count_).first->second;
      move.wait = link = std::max(move.start, std::min(link, move.wait));
    }
  }

  // What the program holds at each op as it stands; then each collective takes of the rest what it can.
  void fit_into_memory() {
    if (schedule_.overlap_memory == any_memory) return;
    std::vector<std::int64_t> live(live_.begin(), live_.end());
    const bool known = live.size() == graph_.ops.size();
    live.resize(graph_.ops.size() + 1, 0);
    std::vector<std::int32_t> last(graph_.values.size(), -1);
    for (std::int32_t i = 0; i < count_; ++i)
      for (const ValueId operand : graph_.ops[at(i)].operands) last[at(operand)] = i;
    std::vector<char> stays(graph_.values.size(), 0);  // in a named buffer
    for (const auto* bindings : {&graph_.inputs, &graph_.outputs})
      for (const auto& binding : *bindings) stays[at(binding.value)] = 1;
    for (std::int32_t i = 0; i < count_ && !known; ++i)
      for (const ValueId result : graph_.ops[at(i)].results)
        for (std::int32_t k = i;
             k <= std::max(i, last[at(result)]) && !stays[at(result)] && graph_[result].space == Space::device; ++k)
          live[at(k)] += buffer_bytes(graph_, result);
    const auto fits = [&](std::int32_t i, std::int64_t bytes) {
      return live[at(i)] + bytes <= schedule_.overlap_memory;
    };
    for (auto& [i, move] : moves_) {
      const Op& op = graph_.ops[at(i)];
      std::int64_t made = 0, kept = 0;
      for (const ValueId result : op.results)
        if (!stays[at(result)]) made += buffer_bytes(graph_, result);
      for (const ValueId operand : op.operands)
        if (!stays[at(operand)]) kept += buffer_bytes(graph_, operand);
      // A message of several tensors is packed into one, which lies beside them.
      if (op.operands.size() > 1) made += made, kept += kept;
      std::int32_t begin = i, end = i + 1;
      while (begin > move.start && fits(begin - 1, made)) live[at(--begin)] += made;
      while (end < move.wait && end < count_ && fits(end, kept)) live[at(end++)] += kept;
      move.start = begin;
      move.wait = end;
    }
  }

  // Those that nothing would run beside. What comes behind one on its link does not start before it.
  void leave_whole() {
    std::map<std::string_view, std::int32_t> least;
    for (auto entry = moves_.begin(); entry != moves_.end();) {
      Move& move = entry->second;
      std::int32_t& link = least[move.start_op->queue];
      move.start = std::max(move.start, link);
      const bool splits = time_[at(move.wait)] > time_[at(move.start)];
      link = splits ? move.start : move.op + 1;
      entry = splits ? std::next(entry) : moves_.erase(entry);
    }
  }

  // ---- the new order. Places say when to try; what an op needs is there before it in any case.
  void emit_all() {
    std::vector<std::vector<Move*>> starts(graph_.ops.size() + 1), waits(graph_.ops.size() + 1);
    for (auto& [i, move] : moves_) {
      starts[at(move.start)].push_back(&move);
      waits[at(move.wait)].push_back(&move);
      links_[move.start_op->queue].push_back(&move);
    }
    ops_.swap(graph_.ops);
    graph_.ops.reserve(ops_.size() + moves_.size());
    done_.assign(ops_.size(), 0);
    for (std::int32_t i = 0; i <= count_; ++i) {
      for (Move* move : waits[at(i)])
        if (move->started) wait_for(*move);
      for (Move* move : starts[at(i)]) later_.push_back(move->op);
      flush();
      if (i == count_) break;
      if (moves_.contains(i)) continue;
      if (light_[at(i)] && !available(i)) {
        later_.push_back(i);
        continue;
      }
      for (const ValueId operand : ops_[at(i)].operands) demand(operand);
      flush();
      emit(i);
    }
    for (std::int32_t i = 0; i < count_; ++i) {
      if (const auto move = moves_.find(i); move != moves_.end())
        wait_for(move->second);
      else
        emit(i);
      flush();
    }
  }

  bool available(std::int32_t i) const {
    return std::all_of(ops_[at(i)].operands.begin(), ops_[at(i)].operands.end(),
                       [&](ValueId id) { return maker_[at(id)] < 0 || done_[at(maker_[at(id)])]; });
  }

  // Whether those before it on its link have started.
  bool next_on_link(const Move& move) const {
    const auto& link = links_.at(move.start_op->queue);
    const auto here = std::find(link.begin(), link.end(), &move);
    return here == link.begin() || (*std::prev(here))->started;
  }

  // Starts and light ops that could not come where they were to.
  void flush() {
    for (std::size_t k = 0; k < later_.size();) {
      const std::int32_t i = later_[k];
      const auto move = moves_.find(i);
      const bool over = move != moves_.end() ? move->second.started : done_[at(i)] != 0;
      if (!over && !(available(i) && (move == moves_.end() || next_on_link(move->second)))) {
        ++k;
        continue;
      }
      later_.erase(later_.begin() + static_cast<std::ptrdiff_t>(k));
      if (over) continue;
      if (move == moves_.end())
        emit(i);
      else
        start(move->second);
      k = 0;
    }
  }

  void demand(ValueId value) {
    const std::int32_t maker = maker_[at(value)];
    if (maker < 0 || done_[at(maker)]) return;
    if (const auto move = moves_.find(maker); move != moves_.end())
      wait_for(move->second);
    else
      emit(maker);
  }

  void emit(std::int32_t i) {
    if (done_[at(i)]) return;
    for (const ValueId operand : ops_[at(i)].operands) demand(operand);
    done_[at(i)] = 1;
    graph_.ops.push_back(std::move(ops_[at(i)]));
  }

  void start(Move& move) {
    if (move.started) return;
    for (Move* before : links_.at(move.start_op->queue)) {
      if (before == &move) break;
      start(*before);
    }
    const Op& whole = ops_[at(move.op)];
    for (const ValueId operand : whole.operands) demand(operand);
    move.started = true;
    for (const ValueId result : whole.results) {
      Value value = graph_[result];
      value.primal = no_value;
      value.pinned.reset();
      value.role = Role::intermediate;
      graph_.values.push_back(std::move(value));
      move.staging.push_back(static_cast<ValueId>(graph_.values.size() - 1));
    }
    Op op = whole;
    op.definition = move.start_op;
    op.results = move.staging;
    op.signature = graph_.signature(op.definition->signature, op.operands);
    graph_.ops.push_back(std::move(op));
  }

  void wait_for(Move& move) {
    if (move.waited) return;
    for (Move* before : links_.at(move.start_op->queue)) {
      if (before == &move) break;
      wait_for(*before);
    }
    start(move);
    move.waited = true;
    Op op = ops_[at(move.op)];
    op.definition = move.wait_op;
    op.operands.insert(op.operands.begin(), move.staging.begin(), move.staging.end());
    op.signature = graph_.signature(op.definition->signature, op.operands);
    graph_.ops.push_back(std::move(op));
    done_[at(move.op)] = 1;
  }

  Graph& graph_;
  const Schedule& schedule_;
  const std::span<const std::int64_t> live_;
  const std::int32_t count_;
  const std::vector<std::int32_t> maker_;  // by value: its op in the old order
  std::vector<double> time_;               // by op: when it begins, if nothing waits and collectives take no time
  std::vector<char> light_;                // by op: comes with the wait for what it reads
  Moves moves_;
  std::vector<Op> ops_;     // in the old order
  std::vector<char> done_;  // by op of the old order: its results are there
  std::vector<std::int32_t> later_;
  std::map<std::string_view, std::vector<Move*>> links_;
};

}  // namespace

void overlap(Graph& graph, const PassContext& context) {
  if (context.options.schedule.overlap_memory > 0) Overlap(graph, context).run();
}

}  // namespace longhaul::passes
