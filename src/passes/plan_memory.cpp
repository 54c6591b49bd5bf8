#include "passes/plan_memory.h"

#include <algorithm>
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

class Planner {
 public:
  Planner(const Graph& graph, const NamedBuffers& named, const ScratchBytes& scratch)
      : graph_(graph), named_(named), scratch_(scratch) {}

  MemoryPlan run() {
    const std::size_t values = graph_.values.size(), ops = graph_.ops.size();
    plan_.value_offset.assign(values, -1);
    plan_.scratch_offset.assign(ops, -1);
    plan_.scratch_bytes.assign(ops, 0);
    definition_ = definitions(graph_);
    find_last_uses();
    place_named();
    for (std::size_t i = 0; i < ops; ++i) step(static_cast<std::int32_t>(i));
    finish_outputs();
    plan_.transient_bytes = free_.top();
    return std::move(plan_);
  }

 private:
  struct Buffer {
    std::int64_t offset, bytes;
  };
  static std::size_t at(ValueId id) { return static_cast<std::size_t>(id); }

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
      bool free = true;
      if (const auto holder = occupant.find(offset); holder != occupant.end()) {
        const std::int32_t last = last_use_[at(holder->second)];
        free = last < defined || (last == defined && in_place(graph_.ops[static_cast<std::size_t>(defined)],
                                                              output.value, holder->second));
      }
      if (free) plan_.value_offset[at(output.value)] = offset;
    }
  }

  bool in_place(const Op& op, ValueId result, ValueId operand) const {
    int uses_of_operand = 0;
    for (ValueId value : op.operands) uses_of_operand += value == operand;
    if (uses_of_operand != 1 || local_bytes(graph_, result) != local_bytes(graph_, operand)) return false;
    for (const auto& [r, o] : op.definition->in_place)
      if (op.results[static_cast<std::size_t>(r)] == result && op.operands[static_cast<std::size_t>(o)] == operand)
        return true;
    return false;
  }

  // A program's own copies and gradients of parameters, and what waits for the backward pass, count as such whatever op
  // makes them, a collective or not.
  MemoryCategory category(const Op& op, ValueId result) const {
    const auto of_parameter = [&](ValueId value) { return value != no_value && holds_parameter(graph_[value].role); };
    const std::int32_t last = last_use_[at(result)];
    const bool saved = op.phase == Phase::forward && last >= 0 && last < static_cast<std::int32_t>(graph_.ops.size()) &&
                       graph_.ops[static_cast<std::size_t>(last)].phase == Phase::backward;
    if (saved)
      return op.definition->communication && of_parameter(op.operands[0]) ? MemoryCategory::parameters
                                                                          : MemoryCategory::saved_activations;
    if (op.definition->communication) return MemoryCategory::communication;
    if (of_parameter(graph_[result].primal) || op.attributes.integer("for_reduction")) return MemoryCategory::gradients;
    return MemoryCategory::transients;
  }

  void add_live(MemoryCategory kind, std::int64_t bytes) {
    live_by_category_[static_cast<std::size_t>(kind)] += bytes;
    live_ += bytes;
  }

  void step(std::int32_t i) {
    const Op& op = graph_.ops[static_cast<std::size_t>(i)];
    std::vector<ValueId> reused;  // operands whose buffers results took over
    for (ValueId result : op.results) {
      if (plan_.value_offset[at(result)] >= 0) continue;  // a named buffer
      bool placed = false;
      for (ValueId operand : op.operands) {
        const auto buffer = transient_.find(operand);
        if (placed || buffer == transient_.end() || last_use_[at(operand)] != i || !in_place(op, result, operand) ||
            std::find(reused.begin(), reused.end(), operand) != reused.end())
          continue;
        reused.push_back(operand);
        plan_.value_offset[at(result)] = plan_.value_offset[at(operand)];
        transient_[result] = buffer->second;
        kind_[result] = category(op, result);
        add_live(kind_[operand], -buffer->second.bytes);
        add_live(kind_[result], buffer->second.bytes);
        placed = true;
      }
      if (placed) continue;
      const std::int64_t bytes = aligned(std::max<std::int64_t>(1, local_bytes(graph_, result)));
      const std::int64_t offset = free_.allocate(bytes);
      plan_.value_offset[at(result)] = named_.bytes + offset;
      transient_[result] = {offset, bytes};
      kind_[result] = category(op, result);
      add_live(kind_[result], bytes);
    }
    const std::int64_t scratch = aligned(scratch_(graph_, op));
    if (scratch > 0) {
      const std::int64_t offset = free_.allocate(scratch);
      plan_.scratch_offset[static_cast<std::size_t>(i)] = named_.bytes + offset;
      plan_.scratch_bytes[static_cast<std::size_t>(i)] = scratch;
      const MemoryCategory kind =
          op.definition->communication ? MemoryCategory::communication : MemoryCategory::scratch;
      add_live(kind, scratch);
      note_peak(i);
      add_live(kind, -scratch);
      free_.release(offset, scratch);
    } else {
      note_peak(i);
    }
    for (ValueId operand : op.operands)
      if (last_use_[at(operand)] == i)
        retire(operand, std::find(reused.begin(), reused.end(), operand) != reused.end());
    for (ValueId result : op.results)
      if (last_use_[at(result)] < 0) retire(result, false);
  }

  void retire(ValueId value, bool taken_over) {
    const auto buffer = transient_.find(value);
    if (buffer == transient_.end()) return;
    if (!taken_over) {
      add_live(kind_[value], -buffer->second.bytes);
      free_.release(buffer->second.offset, buffer->second.bytes);
    }
    transient_.erase(buffer);
  }

  void note_peak(std::int32_t i) {
    if (live_ <= plan_.peak_live_bytes) return;
    plan_.peak_live_bytes = live_;
    plan_.peak_by_category = live_by_category_;
    plan_.peak_op = i;
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
  FreeList free_;
  std::vector<std::int32_t> definition_, last_use_;
  std::map<ValueId, Buffer> transient_;
  std::map<ValueId, MemoryCategory> kind_;
  std::array<std::int64_t, memory_categories> live_by_category_{};
  std::int64_t live_ = 0;
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

MemoryPlan plan_memory(const Graph& graph, const NamedBuffers& named, const ScratchBytes& scratch) {
  MemoryPlan plan = Planner(graph, named, scratch).run();
  const std::string problem = verify_plan(graph, named, plan);
  LONGHAUL_CHECK(problem.empty(), "the memory plan of graph '{}' is wrong: {}", graph.name, problem);
  return plan;
}

}  // namespace longhaul
