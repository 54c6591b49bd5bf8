#include "runtime/collective_order.h"

#include <algorithm>

#include "base/error.h"
#include "comm/exchange.h"
#include "ir/op_definition.h"
#include "runtime/communication.h"

namespace longhaul {
namespace {

// FNV-1a, line ends included.
std::uint64_t fingerprint(const std::vector<std::string>& lines) {
  std::uint64_t hash = 14695981039346656037ull;
  const auto add = [&](char c) { hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ull; };
  for (const std::string& line : lines) {
    for (const char c : line) add(c);
    add('\n');
  }
  return hash;
}

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = text.find('\n', at);
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

}  // namespace

std::vector<std::string> collective_order(const std::vector<const Program*>& programs, int rank) {
  std::vector<std::string> lines;
  for (const Program* program : programs) {
    const Graph& graph = program->graph;
    lines.push_back(fmt::format("{} on the mesh {}", graph.name, graph.mesh.text()));
    for (std::size_t i = 0; i < graph.ops.size(); ++i) {
      const Op& op = graph.ops[i];
      if (!op.definition->communication) continue;
      // A wait on one rank that stands before a start on which it depends elsewhere hangs as well.
      const std::string place =
          op.definition->half == Half::none ? "" : fmt::format(", link {}, instruction {}", op.definition->queue, i);
      if (!communicates(op)) {
        lines.push_back(fmt::format("{}: {}{}", graph.name, op.definition->name, place));
        continue;
      }
      const CommunicationStep step(graph, op, rank);
      if (step.is_local()) continue;
      lines.push_back(fmt::format("{}: {} over {} of {} tensor{} ({}), {} bytes sent", graph.name, op.definition->name,
                                  graph.mesh.text(step.axes), op.operands.size(), op.operands.size() == 1 ? "" : "s",
                                  name_of(graph[op.operands[0]].dtype), step.bytes_sent()));
      if (const auto by = op.attributes.integer("by")) lines.back() += fmt::format(", {} ranks on", by);
      lines.back() += place;
    }
    // A rank with tiles of its own size issues the same collectives; its sums may round otherwise.
    lines.push_back(fmt::format("{}: {} instructions in all", graph.name, graph.ops.size()));
  }
  return lines;
}

void check_collective_order(Communicator& world, const std::vector<const Program*>& programs) {
  if (world.size() == 1) return;
  const std::vector<std::string> mine = collective_order(programs, world.rank());
  const std::uint64_t print = fingerprint(mine);
  const std::vector<std::uint64_t> prints = all_gather(world, print);
  if (std::all_of(prints.begin(), prints.end(), [&](std::uint64_t one) { return one == prints[0]; })) return;

  const std::string first = broadcast_text(world, joined(mine));  // rank 0's
  std::string failure;
  if (print != prints[0]) {
    const std::vector<std::string> wanted = split(first);
    const std::size_t common = std::min(mine.size(), wanted.size());
    std::size_t at = 0;
    while (at < common && mine[at] == wanted[at]) ++at;
    const auto text = [&](const std::vector<std::string>& lines) {
      return at < lines.size() ? lines[at] : std::string("nothing more");
    };
    failure = fmt::format(
        "would not issue the collectives that rank 0 issues; first differ\n    here:   {}\n    rank 0: {}\n  start all "
        "ranks with the same build, experiment file, arguments and LONGHAUL_ variables",
        text(mine), text(wanted));
  }
  agree(world, failure);
}

}  // namespace longhaul
