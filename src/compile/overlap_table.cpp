#include <algorithm>
#include <map>

#include "base/error.h"
#include "compile/compile.h"
#include "ir/op_definition.h"

namespace longhaul {
namespace {

struct Link {
  int beside = 0, whole = 0;
  std::int64_t now = 0, most = 0;  // bytes under way: staging values and scratch
  int ops_now = 0, ops_most = 0;
};

std::string link_of(const Op& op) {
  if (op.definition->half != Half::none) return op.definition->queue;
  const OpDefinition* start = start_of(*op.definition);
  return start ? start->queue : "";
}

std::map<std::string, Link> links_of(const Program& program) {
  const Graph& graph = program.graph;
  std::map<std::string, Link> links;
  std::map<ValueId, std::int64_t> held;  // by first staging value
  for (std::size_t i = 0; i < graph.ops.size(); ++i) {
    const Op& op = graph.ops[i];
    const std::string name = op.definition->communication ? link_of(op) : "";
    if (name.empty()) continue;
    Link& link = links[name];
    if (op.definition->half == Half::none) {
      link.whole += graph.mesh.count(op.attributes.axes("axes")) > 1;
    } else if (op.definition->half == Half::start) {
      std::int64_t bytes = program.plan.scratch_bytes[i];
      for (const ValueId result : op.results) bytes += local_bytes(graph, result);
      held[op.results[0]] = bytes;
      ++link.beside;
      link.ops_most = std::max(link.ops_most, ++link.ops_now);
      link.most = std::max(link.most, link.now += bytes);
    } else {
      --link.ops_now;
      link.now -= held.at(op.operands[0]);
    }
  }
  return links;
}

}  // namespace

std::string overlap_table(const CompiledModel& model) {
  std::string rows;
  for (const auto& program : model.programs)
    for (const auto& [name, link] : links_of(*program))
      if (link.beside > 0)
        rows += fmt::format("  {:18} {:10} {:>6} of {:>5} {:>9} {:>16}\n", program->graph.name, name, link.beside,
                            link.beside + link.whole, link.ops_most, link.most);
  if (rows.empty()) return "";
  return fmt::format("collectives beside computation\n  {:18} {:10} {:>15} {:>9} {:>16}\n", "program", "link",
                     "collectives", "at once", "bytes at once") +
         rows +
         fmt::format("  they cost {} bytes of a rank's memory: {} instead of {} with all taking turns\n",
                     std::max<std::int64_t>(0, model.arena_bytes - model.turns_arena_bytes), model.arena_bytes,
                     model.turns_arena_bytes);
}

}  // namespace longhaul
