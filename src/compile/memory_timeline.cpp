#include "compile/memory_timeline.h"

#include <numeric>
#include <set>

#include "base/error.h"
#include "ir/op_definition.h"

namespace longhaul {

MemoryTimeline memory_timeline(const CompiledModel& model) {
  MemoryTimeline timeline;
  timeline.arena_bytes = model.arena_bytes;
  MemoryTimeline::Bytes kept{};
  std::set<std::int64_t> counted;  // a gradient and its accumulator may be one buffer
  for (const auto& [name, slot] : model.named.slots)
    if (counted.insert(slot.offset).second) kept[static_cast<std::size_t>(slot.category)] += slot.bytes;
  for (std::size_t i = 0; i < model.kinds.size(); ++i) {
    if (model.kinds[i] == ProgramKind::evaluate) continue;
    const Program& program = *model.programs[i];
    const std::vector<Op>& ops = program.graph.ops;
    LONGHAUL_CHECK(program.plan.live_by_op.size() == ops.size(), "{} has {} instructions, {} of them planned",
                   program.graph.name, ops.size(), program.plan.live_by_op.size());
    MemoryTimeline::Span span{program.graph.name, timeline.live.size(), timeline.live.size() + ops.size(), 0};
    span.backward = span.end;
    for (std::size_t at = 0; at < ops.size(); ++at) {
      if (ops[at].phase == Phase::backward && span.backward == span.end) span.backward = span.begin + at;
      MemoryTimeline::Bytes bytes = program.plan.live_by_op[at];
      for (std::size_t k = 0; k < bytes.size(); ++k) bytes[k] += kept[k];
      const std::int64_t sum = std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0});
      if (sum > timeline.peak_bytes) {
        timeline.peak_bytes = sum;
        timeline.peak = timeline.live.size();
        timeline.peak_op = ops[at].definition->name;
        if (ops[at].layer >= 0) timeline.peak_op += fmt::format(" of layer {}", ops[at].layer);
      }
      timeline.live.push_back(bytes);
    }
    timeline.programs.push_back(std::move(span));
  }
  return timeline;
}

}  // namespace longhaul
