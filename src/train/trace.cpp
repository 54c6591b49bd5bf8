#include "train/trace.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "comm/exchange.h"

namespace longhaul {
namespace {

using nlohmann::ordered_json;

// The events of a rank, one JSON object a line; times in microseconds after `begin`.
std::string lines_of(int rank, const std::vector<TraceEvent>& events, double begin) {
  std::map<std::string_view, int> rows;
  for (const TraceEvent& one : events) rows.try_emplace(one.queue, 0);
  int next = 0;
  std::string text;
  const auto add = [&](const ordered_json& json) { text += json.dump() + "\n"; };
  add({{"name", "process_name"}, {"ph", "M"}, {"pid", rank}, {"args", {{"name", fmt::format("rank {}", rank)}}}});
  for (auto& [queue, row] : rows) {
    row = next++;
    const std::string name = queue.empty() ? "computation" : fmt::format("link {}", queue);
    add({{"name", "thread_name"}, {"ph", "M"}, {"pid", rank}, {"tid", row}, {"args", {{"name", name}}}});
  }
  for (const TraceEvent& one : events)
    add({{"name", one.op},
         {"cat", one.program},
         {"ph", "X"},
         {"pid", rank},
         {"tid", rows.at(one.queue)},
         {"ts", 1e6 * (one.begin - begin)},
         {"dur", 1e6 * (one.end - one.begin)},
         {"args", {{"program", one.program}, {"instruction", one.instruction}}}});
  return text;
}

}  // namespace

void write_trace(Communicator& world, const std::vector<TraceEvent>& events, const std::filesystem::path& file) {
  std::string problem;
  if (events.empty())
    problem = fmt::format("{} is not written: this device records no trace; CPU ranks do", file.string());
  agree(world, problem);
  double begin = events[0].begin;
  for (const TraceEvent& one : events) begin = std::min(begin, one.begin);
  const std::vector<double> begins = all_gather(world, begin);
  // Clocks of other hosts start elsewhere: days apart is no time that a step takes.
  const double first = *std::min_element(begins.begin(), begins.end());
  const std::vector<std::string> ranks =
      gather_texts(world, lines_of(world.rank(), events, begin - first < 3600 ? first : begin));
  problem.clear();
  if (world.rank() == 0) {
    std::string text = "[\n";
    for (const std::string& lines : ranks)
      for (std::size_t at = 0; at < lines.size();) {
        const std::size_t end = lines.find('\n', at);
        text += (text.size() > 2 ? ",\n" : "") + lines.substr(at, end - at);
        at = end + 1;
      }
    std::ofstream stream(file);
    stream << text << "\n]\n";
    stream.close();
    if (!stream) problem = fmt::format("cannot write {}", file.string());
  }
  agree(world, problem);
}

}  // namespace longhaul
