// verify_plan: walks a program's memory plan as the executor will, knowing nothing of how it was made. At every op it
// holds the stretches of each space's arena whose content is still to be read; what the op writes must touch none of
// them. What a queue reads or writes between a start and its wait is read by the wait, so it is held until then.
#include <algorithm>
#include <map>

#include "base/error.h"
#include "ir/op_definition.h"
#include "passes/plan_memory.h"

namespace longhaul {
namespace {

struct Stretch {
  std::int64_t begin = 0, end = 0;
  bool meets(const Stretch& other) const { return begin < other.end && other.begin < end; }
  bool operator==(const Stretch&) const = default;
};
std::string text(const Stretch& stretch) {
  return fmt::format("[{}, {})", stretch.begin, stretch.end);
}

class PlanVerifier {
 public:
  PlanVerifier(const Graph& graph, const NamedBuffers& named, const MemoryPlan& plan)
      : graph_(graph), named_(named), plan_(plan), arena_(named.bytes + plan.transient_bytes) {}

  std::string run() {
    const std::size_t ops = graph_.ops.size();
    if (plan_.value_offset.size() != graph_.values.size() || plan_.scratch_offset.size() != ops ||
        plan_.scratch_bytes.size() != ops)
      return "it is of another graph";
    if (auto problem = check_slots(); !problem.empty()) return problem;
    find_last_uses();
    for (const auto& input : graph_.inputs)
      if (auto problem = check_input(input); !problem.empty()) return fmt::format("input {}: {}", input.name, problem);
    for (std::size_t i = 0; i < ops; ++i)
      if (auto problem = check(static_cast<std::int32_t>(i)); !problem.empty())
        return fmt::format("op #{} {}: {}", i, graph_.ops[i].definition->name, problem);
    return check_copies();
  }

 private:
  static std::size_t at(std::int32_t id) { return static_cast<std::size_t>(id); }
  static constexpr ValueId scratch = no_value;  // as what a stretch holds

  Stretch place(ValueId value) const {
    const std::int64_t offset = plan_.value_offset[at(value)];
    return {offset, offset + std::max<std::int64_t>(1, local_bytes(graph_, value))};
  }
  bool on_host(ValueId value) const { return value != scratch && graph_[value].space == Space::host; }
  std::string describe(ValueId value) const {
    return fmt::format("%{} at {}{}", value, text(place(value)), on_host(value) ? " of host memory" : "");
  }

  static bool may_be_one(const std::optional<StateKey>& a, const std::optional<StateKey>& b) {
    if (!a || !b || a->parameter != b->parameter) return false;
    return (a->role == Role::gradient && b->role == Role::accumulator) ||
           (a->role == Role::accumulator && b->role == Role::gradient);
  }

  // Named buffers lie apart, or two are one: a gradient and its accumulator.
  std::string check_slots() const {
    std::vector<std::pair<Stretch, const std::pair<const std::string, NamedBuffers::Slot>*>> slots;
    for (const auto& entry : named_.slots) {
      const auto& slot = entry.second;
      const Stretch stretch{slot.offset, slot.offset + slot.bytes};
      if (stretch.begin < 0 || stretch.end > named_.bytes)
        return fmt::format("buffer {} at {} ends beyond the {} bytes of named buffers", entry.first, text(stretch),
                           named_.bytes);
      if (stretch.begin % buffer_alignment)
        return fmt::format("buffer {} at {} is not aligned to {} bytes", entry.first, text(stretch), buffer_alignment);
      slots.push_back({stretch, &entry});
    }
    std::sort(slots.begin(), slots.end(), [](const auto& a, const auto& b) { return a.first.begin < b.first.begin; });
    for (std::size_t i = 1; i < slots.size(); ++i) {
      const auto& [before, one] = slots[i - 1];
      const auto& [after, other] = slots[i];
      if (before.meets(after) && !(before == after && may_be_one(one->second.state, other->second.state)))
        return fmt::format("buffer {} at {} lies over buffer {} at {}", other->first, text(after), one->first,
                           text(before));
    }
    return "";
  }

  void find_last_uses() {
    last_use_.assign(graph_.values.size(), -1);
    for (std::size_t i = 0; i < graph_.ops.size(); ++i)
      for (ValueId operand : graph_.ops[i].operands) last_use_[at(operand)] = static_cast<std::int32_t>(i);
    for (const Op& op : graph_.ops)
      if (op.definition->half == Half::wait)
        for (std::size_t k = 0; k < op.results.size(); ++k) becomes_[op.operands[k]] = op.results[k];
    for (const auto& output : graph_.outputs) {
      last_use_[at(output.value)] = static_cast<std::int32_t>(graph_.ops.size());
      outputs_.insert({output.value, &named_.slots.at(output.name)});
    }
  }

  std::string check_input(const Binding& input) {
    const auto& slot = named_.slots.at(input.name);
    const Stretch stretch = place(input.value);
    if (stretch.begin != slot.offset || stretch.end > slot.offset + slot.bytes)
      return fmt::format("{} is not in its buffer {}", describe(input.value),
                         text({slot.offset, slot.offset + slot.bytes}));
    if (last_use_[at(input.value)] < 0) return "";
    return occupy(stretch, input.value, -1);
  }

  std::string check(std::int32_t i) {
    const Op& op = graph_.ops[at(i)];
    for (ValueId result : op.results)
      if (auto problem = check_result(i, result); !problem.empty()) return problem;
    if (plan_.scratch_bytes[at(i)] > 0) {
      const std::int64_t offset = plan_.scratch_offset[at(i)];
      const Stretch stretch{offset, offset + plan_.scratch_bytes[at(i)]};
      if (auto problem = check_range(stretch, "its scratch"); !problem.empty()) return problem;
      if (auto problem = occupy(stretch, scratch, i); !problem.empty()) return problem;
      if (op.definition->half == Half::start)
        in_flight_[op.results[0]] = stretch.begin;
      else
        live_[0].erase(stretch.begin);
    }
    if (op.definition->half == Half::wait)
      if (const auto held = in_flight_.find(op.operands[0]); held != in_flight_.end()) {
        live_[0].erase(held->second);
        in_flight_.erase(held);
      }
    for (ValueId operand : op.operands)
      if (last_use_[at(operand)] == i) leave(operand);
    for (ValueId result : op.results)
      if (last_use_[at(result)] < 0) leave(result);
    return "";
  }

  std::string check_result(std::int32_t i, ValueId result) {
    const Stretch stretch = place(result);
    if (stretch.begin < 0) return fmt::format("%{} has no place", result);
    if (on_host(result) || stretch.begin >= named_.bytes) {
      if (auto problem = check_range(stretch, fmt::format("%{}", result), on_host(result)); !problem.empty())
        return problem;
    } else {  // only an output, in the buffer of its name, or what becomes one at its wait
      const auto waited = becomes_.find(result);
      const auto [begin, end] = outputs_.equal_range(waited == becomes_.end() ? result : waited->second);
      if (std::none_of(begin, end, [&](const auto& output) {
            return output.second->offset == stretch.begin && stretch.end <= stretch.begin + output.second->bytes;
          }))
        return fmt::format("{} lies in a named buffer that is not its own", describe(result));
    }
    return occupy(stretch, result, i);
  }

  std::string check_range(const Stretch& stretch, const std::string& what, bool host = false) const {
    if (!host && stretch.begin < named_.bytes)
      return fmt::format("{} at {} lies in named buffers", what, text(stretch));
    const std::int64_t arena = host ? plan_.host.transient_bytes : arena_;
    if (stretch.end > arena)
      return fmt::format("{} at {} ends beyond the {} of {} bytes", what, text(stretch), host ? "host arena" : "arena",
                         arena);
    if (stretch.begin % buffer_alignment)
      return fmt::format("{} at {} is not aligned to {} bytes", what, text(stretch), buffer_alignment);
    return "";
  }

  // The stretch now holds `value`, which op i writes (-1: there from the start).
  std::string occupy(const Stretch& stretch, ValueId value, std::int32_t i) {
    auto& live = live_[on_host(value)];
    auto found = live.upper_bound(stretch.begin);
    if (found != live.begin() && std::prev(found)->second.end > stretch.begin) --found;
    if (found != live.end() && found->first < stretch.end) {
      const ValueId other = found->second.value;
      const Stretch there{found->first, found->second.end};
      if (other == scratch)
        return fmt::format("{} lies over {}, which a collective under way uses",
                           value == scratch ? "its scratch at " + text(stretch) : describe(value), text(there));
      if (value == scratch || !may_replace(graph_.ops[at(std::max(i, 0))], value, other, i) || !(there == stretch))
        return fmt::format("{} lies over {}, {}",
                           value == scratch ? "its scratch at " + text(stretch) : describe(value), describe(other),
                           why_alive(other, i));
      found->second.value = value;
      return "";
    }
    live.insert({stretch.begin, {stretch.end, value}});
    return "";
  }

  // In place: the op reads the operand in that one place, says that this result may lie there, and nobody reads it
  // later.
  bool may_replace(const Op& op, ValueId result, ValueId operand, std::int32_t i) const {
    if (i < 0 || last_use_[at(operand)] != i || std::count(op.operands.begin(), op.operands.end(), operand) != 1)
      return false;
    return may_share_buffer(op, result, operand);
  }

  std::string why_alive(ValueId value, std::int32_t i) const {
    if (i < 0) return "another input";
    const Op& op = graph_.ops[at(i)];
    if (std::find(op.results.begin(), op.results.end(), value) != op.results.end()) return "which it makes as well";
    const std::int32_t last = last_use_[at(value)];
    if (last == static_cast<std::int32_t>(graph_.ops.size())) return "an output";
    if (last > i) return fmt::format("which op #{} {} reads later", last, graph_.ops[at(last)].definition->name);
    return "which it reads and does not declare to be replaced so";
  }

  void leave(ValueId value) {
    auto& live = live_[on_host(value)];
    const auto found = live.find(plan_.value_offset[at(value)]);
    if (found != live.end() && found->second.value == value) live.erase(found);  // else a result took its place
  }

  // Each output ends in its buffer: made there, or copied there from where it still is, over nothing that is needed.
  std::string check_copies() {
    std::map<std::int64_t, std::string_view> arrived;  // buffers that hold their output, by offset
    std::vector<const Binding*> waiting;
    for (const auto& output : graph_.outputs) {
      const auto& slot = named_.slots.at(output.name);
      if (place(output.value).begin != slot.offset)
        waiting.push_back(&output);
      else if (!arrived.insert({slot.offset, output.name}).second)
        return fmt::format("output {}: its buffer holds output {}", output.name, arrived.at(slot.offset));
    }
    std::vector<Stretch> overwritten;
    for (std::size_t k = 0; k < plan_.final_copies.size(); ++k) {
      const MemoryPlan::Copy& copy = plan_.final_copies[k];
      const Stretch from{copy.from, copy.from + copy.bytes}, to{copy.to, copy.to + copy.bytes};
      const auto found = std::find_if(waiting.begin(), waiting.end(), [&](const Binding* output) {
        return named_.slots.at(output->name).offset == copy.to && plan_.value_offset[at(output->value)] == copy.from &&
               local_bytes(graph_, output->value) == copy.bytes;
      });
      if (found == waiting.end())
        return fmt::format("the copy of {} bytes from {} to {} brings no output to its buffer", copy.bytes, copy.from,
                           copy.to);
      const std::string name = (*found)->name;
      waiting.erase(found);
      if (from.meets(to)) return fmt::format("output {}: its copy's source and target overlap", name);
      for (const Stretch& lost : overwritten)
        if (lost.meets(from)) return fmt::format("output {}: it is copied after a copy has overwritten it", name);
      if (!arrived.insert({copy.to, name}).second)
        return fmt::format("output {}: its copy overwrites output {}", name, arrived.at(copy.to));
      overwritten.push_back(to);
    }
    if (!waiting.empty()) return fmt::format("output {} never comes to its buffer", waiting[0]->name);
    return "";
  }

  struct Held {
    std::int64_t end;
    ValueId value;
  };
  const Graph& graph_;
  const NamedBuffers& named_;
  const MemoryPlan& plan_;
  const std::int64_t arena_;
  std::vector<std::int32_t> last_use_;
  std::multimap<ValueId, const NamedBuffers::Slot*> outputs_;
  std::map<ValueId, ValueId> becomes_;         // of a staging value: the result of its wait
  std::map<ValueId, std::int64_t> in_flight_;  // by first staging value: where the scratch of its start lies
  std::map<std::int64_t, Held> live_[spaces];  // by space, then by where they begin; they never overlap
};

}  // namespace

std::string verify_plan(const Graph& graph, const NamedBuffers& named, const MemoryPlan& plan) {
  return PlanVerifier(graph, named, plan).run();
}

}  // namespace longhaul
