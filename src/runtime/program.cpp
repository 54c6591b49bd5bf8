#include "runtime/program.h"

#include <map>
#include <tuple>

#include "base/error.h"
#include "ir/op_definition.h"
#include "runtime/communication.h"

namespace longhaul {

std::vector<TrafficRow> predicted_traffic(const std::string& name, const Program& program, int rank) {
  std::map<std::tuple<std::string, std::string, std::string>, TrafficRow> rows;
  for (const Op& op : program.graph.ops) {
    if (!communicates(op) || op.is("slice")) continue;
    const CommunicationStep step(program.graph, op, rank);
    const std::string group = program.graph.mesh.text(step.axes);
    TrafficRow& row = rows[{std::string(pair_name(op)), op.made_by, group}];
    row = {name, std::string(pair_name(op)), op.made_by, group, row.calls + 1, row.bytes_sent + step.bytes_sent()};
  }
  std::vector<TrafficRow> list;
  for (auto& [key, row] : rows) list.push_back(std::move(row));
  return list;
}

std::string print(const Program& program) {
  const Graph& graph = program.graph;
  const std::int64_t on_host = program.plan.host.transient_bytes;
  std::string text =
      fmt::format("program \"{}\": {} instructions, {} transient bytes{}\n", graph.name, graph.ops.size(),
                  program.plan.transient_bytes, on_host > 0 ? fmt::format(", {} host bytes", on_host) : "");
  const auto place = [&](ValueId id) {
    return fmt::format("{}{}", graph[id].space == Space::host ? "host:" : "",
                       program.plan.value_offset[static_cast<std::size_t>(id)]);
  };
  for (std::size_t i = 0; i < graph.ops.size(); ++i) {
    const Op& op = graph.ops[i];
    text += fmt::format("{:6} {:28}", i, op.definition->name);
    for (ValueId result : op.results)
      text += fmt::format(" {}+{}", place(result),
                          size_of(graph[result].dtype) * static_cast<std::size_t>(local_count(
                                                             graph[result].shape, graph[result].layout, graph.mesh)));
    text += " <-";
    for (ValueId operand : op.operands) text += fmt::format(" {}", place(operand));
    if (program.plan.scratch_bytes[i])
      text += fmt::format(" scratch {}+{}", program.plan.scratch_offset[i], program.plan.scratch_bytes[i]);
    text += "\n";
  }
  for (const auto& copy : program.plan.final_copies)
    text += fmt::format("       copy {}+{} <- {}\n", copy.to, copy.bytes, copy.from);
  return text;
}

}  // namespace longhaul
