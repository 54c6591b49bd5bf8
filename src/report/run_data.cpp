#include "report/run_data.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/error.h"
#include "base/json.h"
#include "io/file.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::int64_t largest_file = std::int64_t{4} << 30;

std::string text_or(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}
std::int64_t number_or(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number_integer() ? found->get<std::int64_t>() : 0;
}
std::vector<std::string> texts_or(const json& object, const char* key) {
  std::vector<std::string> texts;
  if (const auto found = object.find(key); found != object.end() && found->is_array())
    for (const auto& one : *found)
      if (one.is_string()) texts.push_back(one);
  return texts;
}

// [[first, loss, labels], ...]; garbled ones are left out.
void add_positions(RunData& run, const std::string& set, std::int64_t step, const json& buckets) {
  PositionCurve curve;
  curve.step = step;
  for (const auto& one : buckets) {
    if (!one.is_array() || one.size() < 2 || !one[0].is_number_integer() || !one[1].is_number()) continue;
    curve.first.push_back(one[0]);
    curve.loss.push_back(one[1]);
  }
  if (!curve.first.empty()) run.by_position[set] = std::move(curve);
}

void add_line(RunData& run, const json& line, double& tokens) {
  const std::int64_t step = line.at("step");
  const auto add = [&](const std::string& name, double value) {
    Series& series = run.series[name];
    series.step.push_back(step);
    series.value.push_back(value);
  };
  for (const auto& [name, value] : line.items())
    if (name != "step" && value.is_number()) add(name, value);
  constexpr std::string_view positions = "validation_loss_by_position";
  for (const auto& [name, value] : line.items())
    if (name.starts_with(positions) && value.is_array())
      add_positions(run, name.size() > positions.size() ? name.substr(positions.size() + 1) : "", step, value);
  tokens += line.value("valid_tokens", 0.0);
  add("tokens", tokens);
  if (const std::string why = text_or(line, "skipped"); !why.empty()) run.skipped.emplace_back(step, why);
}

void read_metrics(RunData& run, const fs::path& file) {
  const std::string text = read_text(file.string(), largest_file);
  std::int64_t number = 0;
  double tokens = 0;
  for (std::size_t begin = 0; begin < text.size(); ++number) {
    const std::size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;  // being written, or torn
    const std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    const json one = json::parse(line, nullptr, false);
    if (!one.is_object() || !one.contains("step") || !one["step"].is_number_integer())
      fail("{}:{} is no line of metrics: {}", file.string(), number + 1, line.substr(0, 80));
    add_line(run, one, tokens);
  }
  if (run.series.empty()) fail("{} holds no step yet", file.string());
}

std::string hosts_text(const json& start) {
  std::string text;
  if (const auto hosts = start.find("hosts"); hosts != start.end() && hosts->is_array())
    for (const auto& host : *hosts)
      if (host.is_object())
        text += fmt::format("{}{} ({})", text.empty() ? "" : ", ", text_or(host, "host"), text_or(host, "cpu"));
  return text;
}

// Those that share the first one's process: threads of it.
int ranks_of_process(const json& start) {
  const auto hosts = start.find("hosts");
  if (hosts == start.end() || !hosts->is_array() || hosts->empty() || !hosts->front().is_object()) return 1;
  const auto processes = hosts->front().find("processes");
  if (processes == hosts->front().end() || !processes->is_array() || processes->empty()) return 1;
  return static_cast<int>(std::count(processes->begin(), processes->end(), processes->front()));
}

// What was planned for rank 0's process, by the start that took each step.
void add_planned_memory(RunData& run) {
  const auto found = run.series.find("peak_memory_bytes");
  if (found == run.series.end()) return;
  Series planned = found->second;
  for (std::size_t i = 0; i < planned.step.size(); ++i) {
    int ranks = 1;
    for (const RunStart& start : run.starts)
      if (start.from_step < planned.step[i]) ranks = start.ranks_of_process;
    planned.value[i] *= ranks;
  }
  run.series["planned_memory_bytes"] = std::move(planned);
}

void read_record(RunData& run, const fs::path& file) {
  const json record = parse_json(read_text(file.string(), largest_file), file.string());
  const auto starts = record.find("starts");
  if (!record.is_object() || starts == record.end() || !starts->is_array())
    fail("{} is no record of a run: it has no list `starts`", file.string());
  for (const auto& one : *starts) {
    if (!one.is_object()) continue;
    RunStart start;
    start.begin = text_or(one, "start");
    start.end = text_or(one, "end");
    start.outcome = text_or(one, "outcome");
    start.reason = text_or(one, "reason");
    start.commit = text_or(one, "commit");
    start.hosts = hosts_text(one);
    start.from_step = number_or(one, "from_step");
    start.to_step = number_or(one, "to_step");
    start.ranks = static_cast<int>(number_or(one, "ranks"));
    start.ranks_of_process = ranks_of_process(one);
    start.decisions = texts_or(one, "decisions");
    start.warnings = texts_or(one, "warnings");
    run.starts.push_back(std::move(start));
  }
}

const std::vector<double>& values_of(const RunData& run, const std::string& name) {
  static const std::vector<double> none;
  const auto found = run.series.find(name);
  return found == run.series.end() ? none : found->second.value;
}

constexpr double unknown = std::numeric_limits<double>::quiet_NaN();

}  // namespace

double RunData::last(const std::string& key) const {
  const auto& values = values_of(*this, key);
  return values.empty() ? unknown : values.back();
}
double RunData::least(const std::string& key) const {
  const auto& values = values_of(*this, key);
  return values.empty() ? unknown : *std::min_element(values.begin(), values.end());
}
double RunData::median(const std::string& key) const {
  std::vector<double> values = values_of(*this, key);
  if (values.empty()) return unknown;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

RunData read_run(const fs::path& folder) {
  RunData run;
  run.name = fs::weakly_canonical(folder).filename().string();
  std::error_code none;
  const fs::path metrics = folder / "metrics.jsonl";
  if (!fs::is_regular_file(metrics, none))
    fail("{} holds no metrics.jsonl: name a run folder (job.folder) in which steps were trained", folder.string());
  read_metrics(run, metrics);
  if (fs::is_regular_file(folder / "run.json", none)) read_record(run, folder / "run.json");
  add_planned_memory(run);
  if (fs::is_regular_file(folder / "experiment.yaml", none))
    run.experiment = read_text((folder / "experiment.yaml").string(), 1 << 20);
  return run;
}

Series thinned(const Series& series, std::size_t points) {
  const std::size_t count = series.value.size();
  if (count <= points) return series;
  Series result;
  const std::size_t stretches = points / 2;
  const auto take = [&](std::size_t i) {
    result.step.push_back(series.step[i]);
    result.value.push_back(series.value[i]);
  };
  for (std::size_t stretch = 0; stretch < stretches; ++stretch) {
    const std::size_t begin = count * stretch / stretches, end = count * (stretch + 1) / stretches;
    std::size_t low = begin, high = begin;
    for (std::size_t i = begin; i < end; ++i) {
      if (series.value[i] < series.value[low]) low = i;
      if (series.value[i] > series.value[high]) high = i;
    }
    take(std::min(low, high));
    if (low != high) take(std::max(low, high));
  }
  return result;
}

}  // namespace longhaul
