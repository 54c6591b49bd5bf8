#include "passes/plan_memory.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <set>

#include "base/error.h"
#include "ir/op_definition.h"

namespace longhaul {

namespace {

std::int64_t aligned(std::int64_t bytes) {
  return (bytes + buffer_alignment - 1) / buffer_alignment * buffer_alignment;
}

MemoryCategory category_of(Role role) {
  return holds_parameter(role) ? MemoryCategory::parameters
         : is_moment(role)     ? MemoryCategory::optimizer
                               : MemoryCategory::gradients;
}

// Free ranges of one growing space; allocation is best fit, or at the end.
class FreeList {
 public:
  std::int64_t allocate(std::int64_t bytes) {
    const auto fit = by_size_.lower_bound({bytes, 0});
    if (fit == by_size_.end()) {
      // The last free range may reach the end: grow it.
      std::int64_t offset = top_;
      if (!by_offset_.empty()) {
        const auto last = std::prev(by_offset_.end());
        if (last->first + last->second == top_) {
          offset = last->first;
          by_size_.erase({last->second, last->first});
          by_offset_.erase(last);
        }
      }
      top_ = offset + bytes;
      return offset;
    }
    const auto [size, offset] = *fit;
    by_size_.erase(fit);
    by_offset_.erase(offset);
    if (size > bytes) insert(offset + bytes, size - bytes);
    return offset;
  }
  void release(std::int64_t offset, std::int64_t bytes) {
    auto next = by_offset_.lower_bound(offset);
    if (next != by_offset_.begin()) {
      const auto previous = std::prev(next);
      if (previous->first + previous->second == offset) {
        offset = previous->first;
        bytes += previous->second;
        by_size_.erase({previous->second, previous->first});
        by_offset_.erase(previous);
      }
    }
    next = by_offset_.lower_bound(offset);
    if (next != by_offset_.end() && offset + bytes == next->first) {
      bytes += next->second;
      by_size_.erase({next->second, next->first});
      by_offset_.erase(next);
    }
    insert(offset, bytes);
  }
  std::int64_t top() const { return top_; }

 private:
  void insert(std::int64_t offset, std::int64_t bytes) {
    by_offset_[offset] = bytes;
    by_size_.insert({bytes, offset});
  }
  std::map<std::int64_t, std::int64_t> by_offset_;
  std::set<std::pair<std::int64_t, std::int64_t>> by_size_;
  std::int64_t top_ = 0;
};

// What lives in the transient part from op `begin` to op `end`, both included: a value, those that take its place one
// after the other, or an op's scratch.
struct Buffer {
  std::int64_t offset = 0, bytes = 0;
  std::int32_t begin = 0, end = 0;
};

// Buffers that have a place, by offset; found by when they live.
class Placed {
 public:
  explicit Placed(const std::vector<Buffer>& buffers) {
    std::int32_t last = 0;
    for (const Buffer& one : buffers) last = std::max(last, one.end);
    spans_.resize(span_of(last) + 1);
    all_.reserve(buffers.size());
  }
  void add(const Buffer& buffer) {
    insert(all_, buffer);
    for (std::size_t i = span_of(buffer.begin); i <= span_of(buffer.end); ++i) insert(spans_[i], buffer);
  }
  /// All that live at the same time as `buffer`, by offset; others may be among them, and some twice.
  const std::vector<Buffer>& near(const Buffer& buffer) {
    const std::size_t first = span_of(buffer.begin), last = span_of(buffer.end);
    if (last - first >= few_spans) return all_;
    if (first == last) return spans_[first];
    found_.clear();
    for (std::size_t i = first; i <= last; ++i) found_.insert(found_.end(), spans_[i].begin(), spans_[i].end());
    std::sort(found_.begin(), found_.end(), lower);
    return found_;
  }

 private:
  static constexpr std::int32_t span = 128;  // instructions
  static constexpr std::size_t few_spans = 2;
  static std::size_t span_of(std::int32_t op) { return static_cast<std::size_t>(op / span); }
  static bool lower(const Buffer& x, const Buffer& y) { return x.offset < y.offset; }
  static void insert(std::vector<Buffer>& list, const Buffer& buffer) {
    list.insert(std::upper_bound(list.begin(), list.end(), buffer, lower), buffer);
  }
  std::vector<Buffer> all_, found_;
  std::vector<std::vector<Buffer>> spans_;  // those that live within so many instructions
};

// Offsets anew, buffers taken in `order`: each takes a gap that holds it between those that live at the same time, the
// smallest or the lowest, or the lowest place above them. Returns how many bytes that takes.
enum class Fit { smallest, lowest };
std::int64_t place_in_order(std::vector<Buffer>& buffers, const std::vector<std::size_t>& order, Fit fit) {
  Placed placed(buffers);
  std::int64_t top = 0;
  for (const std::size_t i : order) {
    Buffer& buffer = buffers[i];
    std::int64_t end = 0, smallest = std::numeric_limits<std::int64_t>::max();
    buffer.offset = -1;
    for (const Buffer& other : placed.near(buffer)) {
      if (other.end < buffer.begin || buffer.end < other.begin) continue;
      if (const std::int64_t gap = other.offset - end; gap >= buffer.bytes && gap < smallest) {
        smallest = gap;
        buffer.offset = end;
        if (fit == Fit::lowest) break;
      }
      end = std::max(end, other.offset + other.bytes);
    }
    if (buffer.offset < 0) buffer.offset = end;
    top = std::max(top, buffer.offset + buffer.bytes);
    placed.add(buffer);
  }
  return top;
}

// What a buffer is placed by, the greatest first: its bytes (arXiv 2001.03288, "greedy by size"), how long it lives,
// both, or how full memory is at the fullest point of its life. Which leaves the fewest gaps depends on the program.
using Measure = double (*)(const Buffer&, double fullest);
constexpr Measure measures[] = {
    [](const Buffer& one, double) { return static_cast<double>(one.bytes); },
    [](const Buffer& one, double) { return static_cast<double>(one.end - one.begin); },
    [](const Buffer& one, double) {
      return static_cast<double>(one.bytes) * static_cast<double>(one.end - one.begin + 1);
    },
    [](const Buffer&, double fullest) { return fullest; },
};

// Of each buffer, the most bytes that live at once while it does.
std::vector<double> fullest_points(const std::vector<Buffer>& buffers) {
  std::int32_t last = 0;
  for (const Buffer& one : buffers) last = std::max(last, one.end);
  std::vector<std::int64_t> live(static_cast<std::size_t>(last) + 2, 0);
  for (const Buffer& one : buffers) {
    live[static_cast<std::size_t>(one.begin)] += one.bytes;
    live[static_cast<std::size_t>(one.end) + 1] -= one.bytes;
  }
  std::partial_sum(live.begin(), live.end(), live.begin());
  std::vector<double> most;
  for (const Buffer& one : buffers)
    most.push_back(static_cast<double>(*std::max_element(live.begin() + one.begin, live.begin() + one.end + 1)));
  return most;
}

class Planner {
 public:
  Planner(const Graph& graph, const NamedBuffers& named, const ScratchBytes& scratch)
      : graph_(graph), named_(named), scratch_(scratch) {}

  MemoryBounds bounds() {
    place_in_program_order();
    return {plan_.peak_live_bytes, plan_.transient_bytes};
  }

  MemoryPlan run() {
    place_in_program_order();
    close_gaps(device_);
    close_gaps(host_);
    const std::size_t values = graph_.values.size(), ops = graph_.ops.size();
    for (std::size_t v = 0; v < values; ++v)
      if (buffer_of_[v] != none)
        plan_.value_offset[v] = graph_.values[v].space == Space::host
                                    ? host_.buffers[buffer_of_[v]].offset
                                    : named_.bytes + device_.buffers[buffer_of_[v]].offset;
    for (std::size_t i = 0; i < ops; ++i)
      if (scratch_of_[i] != none) plan_.scratch_offset[i] = named_.bytes + device_.buffers[scratch_of_[i]].offset;
    finish_outputs();
    return std::move(plan_);
  }

 private:
  // What is known of one space while ops are walked.
  struct Arena {
    explicit Arena(ArenaPlan& of) : plan(of) {}
    ArenaPlan& plan;
    FreeList free;
    std::vector<Buffer> buffers;
    std::array<std::int64_t, memory_categories> live_by_category{};
    std::int64_t live = 0;

    void add_live(MemoryCategory kind, std::int64_t bytes) {
      live_by_category[static_cast<std::size_t>(kind)] += bytes;
      live += bytes;
    }
    std::size_t new_buffer(std::int64_t bytes, std::int32_t i) {
      buffers.push_back({free.allocate(bytes), bytes, i, i});
      return buffers.size() - 1;
    }
    void note_peak(std::int32_t i) {
      if (live <= plan.peak_live_bytes) return;
      plan.peak_live_bytes = live;
      plan.peak_by_category = live_by_category;
      plan.peak_op = i;
    }
  };
  Arena& arena(ValueId value) { return graph_[value].space == Space::host ? host_ : device_; }

  static constexpr std::size_t none = std::numeric_limits<std::size_t>::max();
  static std::size_t at(ValueId id) { return static_cast<std::size_t>(id); }

  void place_in_program_order() {
    const std::size_t values = graph_.values.size(), ops = graph_.ops.size();
    plan_.value_offset.assign(values, -1);
    plan_.scratch_offset.assign(ops, -1);
    plan_.scratch_bytes.assign(ops, 0);
    definition_ = definitions(graph_);
    find_last_uses();
    place_named();
    buffer_of_.assign(values, none);
    retired_.assign(values, 0);
    scratch_of_.assign(ops, none);
    for (std::size_t i = 0; i < ops; ++i) step(static_cast<std::int32_t>(i));
    for (Arena* arena : {&device_, &host_}) arena->plan.transient_bytes = arena->free.top();
  }

  void find_last_uses() {
    last_use_.assign(graph_.values.size(), -1);
    for (std::size_t i = 0; i < graph_.ops.size(); ++i)
      for (ValueId operand : graph_.ops[i].operands) last_use_[at(operand)] = static_cast<std::int32_t>(i);
    for (const auto& output : graph_.outputs)
      last_use_[at(output.value)] = static_cast<std::int32_t>(graph_.ops.size());
  }

  // Inputs live in their named buffers. An output is made in its named buffer when the buffer's old content is not read
  // at or after its definition (or by its definition, in place); otherwise it is copied there at the end.
  void place_named() {
    for (const auto& input : graph_.inputs) plan_.value_offset[at(input.value)] = named_.slots.at(input.name).offset;
    std::map<std::int64_t, ValueId> occupant;  // by offset: the input that lives there
    for (const auto& input : graph_.inputs) occupant[named_.slots.at(input.name).offset] = input.value;
    std::set<std::int64_t> taken;
    for (const auto& output : graph_.outputs) {
      const std::int64_t offset = named_.slots.at(output.name).offset;
      const std::int32_t defined = definition_[at(output.value)];
      if (defined < 0 || plan_.value_offset[at(output.value)] >= 0 || !taken.insert(offset).second) continue;
      const Op& maker = graph_.ops[static_cast<std::size_t>(defined)];
      const ValueId staging = staging_of(maker, output.value);
      bool free = true, staged = staging != no_value;
      if (const auto holder = occupant.find(offset); holder != occupant.end()) {
        const std::int32_t last = last_use_[at(holder->second)];
        free = last < defined || (last == defined && in_place(maker, output.value, holder->second));
        staged = staged && last < definition_[at(staging)];
      }
      if (free) plan_.value_offset[at(output.value)] = offset;
      if (free && staged) plan_.value_offset[at(staging)] = offset;  // it arrives where it stays
    }
  }

  bool in_place(const Op& op, ValueId result, ValueId operand) const {
    int uses_of_operand = 0;
    for (ValueId value : op.operands) uses_of_operand += value == operand;
    if (uses_of_operand != 1 || local_bytes(graph_, result) != local_bytes(graph_, operand) ||
        graph_[result].space != graph_[operand].space)
      return false;
    return may_share_buffer(op, result, operand);
  }

  // The staging value of an output that a wait makes; no_value for any other.
  ValueId staging_of(const Op& op, ValueId result) const {
    if (op.definition->half != Half::wait) return no_value;
    return op.operands[at(
        static_cast<ValueId>(std::find(op.results.begin(), op.results.end(), result) - op.results.begin()))];
  }

  // A program's own copies and gradients of parameters, and what waits for the backward pass, count as such whatever op
  // makes them, a collective or not.
  MemoryCategory category(const Op& op, ValueId result) const {
    const auto of_parameter = [&](ValueId value) { return value != no_value && holds_parameter(graph_[value].role); };
    const std::int32_t last = last_use_[at(result)];
    if (op.definition->half != Half::none && !op.definition->communication) return MemoryCategory::saved_activations;
    const bool saved = op.phase == Phase::forward && last >= 0 && last < static_cast<std::int32_t>(graph_.ops.size()) &&
                       graph_.ops[static_cast<std::size_t>(last)].phase == Phase::backward;
    if (saved)
      return op.definition->communication && of_parameter(moved_operand(op, 0)) ? MemoryCategory::parameters
                                                                                : MemoryCategory::saved_activations;
    if (op.definition->communication) return MemoryCategory::communication;
    if (of_parameter(graph_[result].primal) || op.attributes.integer("for_reduction")) return MemoryCategory::gradients;
    return MemoryCategory::transients;
  }

  // Best fit in the order of the program may leave gaps where most is live. Other orders are tried, then the best of
  // them with the buffer that ended highest in front, again and again.
  void close_gaps(Arena& arena) {
    ArenaPlan& plan = arena.plan;
    if (plan.transient_bytes == plan.peak_live_bytes) return;
    const std::vector<double> fullest = fullest_points(arena.buffers);
    const auto count = static_cast<double>(arena.buffers.size());
    std::vector<std::size_t> order(arena.buffers.size()), best_order;
    std::int64_t best = std::numeric_limits<std::int64_t>::max();
    Fit best_fit = Fit::smallest;
    const auto place = [&](Fit fit) {
      std::vector<Buffer> buffers = arena.buffers;
      const std::int64_t bytes = place_in_order(buffers, order, fit);
      if (bytes < best) {
        best = bytes;
        best_order = order;
        best_fit = fit;
      }
      const auto highest = std::max_element(buffers.begin(), buffers.end(), [](const Buffer& x, const Buffer& y) {
        return x.offset + x.bytes < y.offset + y.bytes;
      });
      const auto index = static_cast<std::size_t>(highest - buffers.begin());
      if (bytes < plan.transient_bytes) {
        arena.buffers = std::move(buffers);
        plan.transient_bytes = bytes;
      }
      return index;
    };
    for (const Fit fit : {Fit::smallest, Fit::lowest})
      for (const Measure measure : measures) {
        if (plan.transient_bytes == plan.peak_live_bytes) return;
        std::iota(order.begin(), order.end(), std::size_t{0});
        std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
          return measure(arena.buffers[a], fullest[a]) > measure(arena.buffers[b], fullest[b]);
        });
        place(fit);
      }
    order = best_order;
    const Fit fit = best_fit;
    const int tries = static_cast<int>(std::clamp(2e7 / (count * count), 2.0, 100.0));  // a try is quadratic
    for (int i = 0; i < tries && plan.transient_bytes != plan.peak_live_bytes; ++i) {
      const std::size_t highest = place(fit);
      const auto at_highest = std::find(order.begin(), order.end(), highest);
      std::rotate(order.begin(), at_highest, at_highest + 1);
    }
  }

  void step(std::int32_t i) {
    const Op& op = graph_.ops[static_cast<std::size_t>(i)];
    std::vector<ValueId> reused;  // operands whose buffers results took over
    for (ValueId result : op.results) {
      if (plan_.value_offset[at(result)] >= 0) continue;  // a named buffer
      bool placed = false;
      for (ValueId operand : op.operands) {
        const std::size_t buffer = buffer_of_[at(operand)];
        if (placed || buffer == none || last_use_[at(operand)] != i || !in_place(op, result, operand) ||
            std::find(reused.begin(), reused.end(), operand) != reused.end())
          continue;
        reused.push_back(operand);
        buffer_of_[at(result)] = buffer;
        kind_[result] = category(op, result);
        Arena& here = arena(result);
        here.add_live(kind_[operand], -here.buffers[buffer].bytes);
        here.add_live(kind_[result], here.buffers[buffer].bytes);
        placed = true;
      }
      if (placed) continue;
      const std::int64_t bytes = aligned(std::max<std::int64_t>(1, local_bytes(graph_, result)));
      buffer_of_[at(result)] = arena(result).new_buffer(bytes, i);
      kind_[result] = category(op, result);
      arena(result).add_live(kind_[result], bytes);
    }
    host_.note_peak(i);
    const std::int64_t scratch = aligned(scratch_(graph_, op));
    if (scratch > 0) {
      const std::size_t buffer = scratch_of_[at(i)] = device_.new_buffer(scratch, i);
      plan_.scratch_bytes[at(i)] = scratch;
      const MemoryCategory kind =
          op.definition->communication ? MemoryCategory::communication : MemoryCategory::scratch;
      device_.add_live(kind, scratch);
      note(i);
      if (op.definition->half == Half::start)
        in_flight_[op.results[0]] = {kind, buffer};
      else
        release(kind, buffer);
    } else {
      note(i);
    }
    if (op.definition->half == Half::wait)
      if (const auto held = in_flight_.find(op.operands[0]); held != in_flight_.end()) {
        device_.buffers[held->second.second].end = i;
        release(held->second.first, held->second.second);
        in_flight_.erase(held);
      }
    for (ValueId operand : op.operands)
      if (last_use_[at(operand)] == i && std::find(reused.begin(), reused.end(), operand) == reused.end())
        retire(operand, i);
    for (ValueId result : op.results)
      if (last_use_[at(result)] < 0)
        retire(result, i);
      else if (buffer_of_[at(result)] != none && last_use_[at(result)] == static_cast<std::int32_t>(graph_.ops.size()))
        arena(result).buffers[buffer_of_[at(result)]].end = last_use_[at(result)];
  }

  void note(std::int32_t i) {
    device_.note_peak(i);
    plan_.live_by_op.push_back(device_.live_by_category);
  }
  void release(MemoryCategory kind, std::size_t scratch) {
    const Buffer& buffer = device_.buffers[scratch];
    device_.add_live(kind, -buffer.bytes);
    device_.free.release(buffer.offset, buffer.bytes);
  }

  // The value is read for the last time by op i, or never, and nothing took its place.
  void retire(ValueId value, std::int32_t i) {
    if (buffer_of_[at(value)] == none || retired_[at(value)]++) return;  // an op may read it twice
    Arena& here = arena(value);
    Buffer& buffer = here.buffers[buffer_of_[at(value)]];
    buffer.end = i;
    here.add_live(kind_[value], -buffer.bytes);
    here.free.release(buffer.offset, buffer.bytes);
  }

  void finish_outputs() {
    std::vector<MemoryPlan::Copy> copies;
    for (const auto& output : graph_.outputs) {
      const auto& slot = named_.slots.at(output.name);
      const std::int64_t from = plan_.value_offset[at(output.value)];
      if (from != slot.offset) copies.push_back({from, slot.offset, local_bytes(graph_, output.value)});
    }
    // Where one copy overwrites what another reads (outputs that are inputs of other names), the reader goes first.
    while (!copies.empty()) {
      const auto harmless = std::find_if(copies.begin(), copies.end(), [&](const MemoryPlan::Copy& copy) {
        return std::none_of(copies.begin(), copies.end(), [&](const MemoryPlan::Copy& other) {
          return &other != &copy && copy.to < other.from + other.bytes && other.from < copy.to + copy.bytes;
        });
      });
      LONGHAUL_CHECK(harmless != copies.end(), "outputs of graph {} exchange the places of its inputs", graph_.name);
      plan_.final_copies.push_back(*harmless);
      copies.erase(harmless);
    }
  }

  const Graph& graph_;
  const NamedBuffers& named_;
  const ScratchBytes& scratch_;
  MemoryPlan plan_;
  Arena device_{plan_}, host_{plan_.host};
  std::vector<std::int32_t> definition_, last_use_;
  std::vector<std::size_t> buffer_of_;   // by value: of the buffers of its space
  std::vector<std::size_t> scratch_of_;  // by op: of the device's buffers
  std::vector<char> retired_;            // by value
  std::map<ValueId, MemoryCategory> kind_;
  // Scratch that a start uses until its wait, by the first staging value.
  std::map<ValueId, std::pair<MemoryCategory, std::size_t>> in_flight_;
};

}  // namespace

NamedBuffers plan_named_buffers(const std::vector<const Graph*>& programs) {
  NamedBuffers named;
  for (const Graph* graph : programs)
    for (const auto* bindings : {&graph->inputs, &graph->outputs})
      for (const auto& binding : *bindings) {
        auto& slot = named.slots[binding.name];
        slot.bytes = std::max(slot.bytes, aligned(std::max<std::int64_t>(1, local_bytes(*graph, binding.value))));
        if (!binding.state) continue;
        slot.state = binding.state;
        slot.category = category_of(binding.state->role);
      }
  for (auto& [name, slot] : named.slots) {
    if (slot.state && slot.state->role == Role::gradient) {
      // A reduced gradient may take the place of its accumulator: the last micro-batch turns one into the other.
      const auto accumulator = named.slots.find(name_of(StateKey{Role::accumulator, slot.state->parameter}));
      if (accumulator != named.slots.end() && accumulator->second.bytes == slot.bytes) {
        slot.offset = accumulator->second.offset;  // "accumulator" sorts before "gradient"
        continue;
      }
    }
    slot.offset = named.bytes;
    named.bytes += slot.bytes;
  }
  return named;
}

MemoryBounds memory_bounds(const Graph& graph, const NamedBuffers& named, const ScratchBytes& scratch) {
  return Planner(graph, named, scratch).bounds();
}

MemoryPlan plan_memory(const Graph& graph, const NamedBuffers& named, const ScratchBytes& scratch) {
  MemoryPlan plan = Planner(graph, named, scratch).run();
  const std::string problem = verify_plan(graph, named, plan);
  LONGHAUL_CHECK(problem.empty(), "the memory plan of graph '{}' is wrong: {}", graph.name, problem);
  return plan;
}

}  // namespace longhaul
