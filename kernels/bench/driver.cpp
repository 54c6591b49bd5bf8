#include "kernels/bench/driver.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace longhaul::bench {
namespace {

// The problems asked for, as overrides of the ops' defaults.
std::vector<Problem> choose_problems(const Options& options, const std::vector<Device::Op>& ops) {
  std::vector<Problem> problems;
  if (!options.problems.empty()) {
    if (!options.shape.empty()) fail("--problems and --shape exclude each other: the file has the shapes");
    problems = read_problems(options.problems);
    if (!options.op.empty()) {
      std::erase_if(problems, [&](const Problem& problem) { return problem.op != options.op; });
      if (problems.empty()) fail("--op {}: {} has no such problem", options.op, options.problems);
    }
  } else if (!options.shape.empty()) {
    if (options.op.empty()) fail("--shape needs --op");
    for (Shape& shape : expand(options.shape)) problems.push_back({options.op, std::move(shape), ""});
  } else {
    for (const Device::Op& op : ops)
      if (options.op.empty() || options.op == op.name)
        for (const Shape& shape : op.timed) problems.push_back({op.name, shape, ""});
    if (problems.empty()) problems.push_back({options.op, Shape(), ""});  // named below as unknown
  }
  return problems;
}

const Device::Op& find(const std::vector<Device::Op>& ops, const std::string& name, const std::string& device) {
  std::string names;
  for (const Device::Op& op : ops) {
    if (op.name == name) return op;
    names += (names.empty() ? "" : ", ") + op.name;
  }
  fail("device {} has no op {}; it has {}", device, name, names);
}

// The whole shape; the options' dtype and threads replace those of an op that has such keys.
Shape whole_shape(const Device::Op& op, const Problem& problem, const Options& options) {
  Shape shape = op.defaults.with(problem.over);
  if (!options.dtype.empty()) shape = shape.with(Shape("dtype=" + options.dtype));
  if (options.threads) shape = shape.with(Shape(fmt::format("threads={}", options.threads)));
  return shape;
}

std::string rate(const Measurement& m) {
  const double seconds = m.median_ms * 1e-3;
  return m.flops > 0 ? fmt::format("{:.1f} GFLOP/s", m.flops / seconds * 1e-9)
                     : fmt::format("{:.2f} GB/s", m.bytes / seconds * 1e-9);
}
std::string percent(const std::optional<double>& fraction) {
  return fraction ? fmt::format("{:.1f} %", 100 * *fraction) : "-";
}
std::string ratios(const Measurement& m) {
  std::string text;
  for (const auto& [library, ratio] : m.ratios)
    text += fmt::format("{}{} {:.3f}", text.empty() ? "" : ", ", library, ratio);
  return text.empty() ? "-" : text;
}

struct Table {
  std::string device, description;
  std::vector<Measurement> rows;
};

void write_markdown(const Table& table, const std::string& file) {
  std::ofstream out(file);
  out << table.description << "\n\n| op | shape | kernel | error | minimum ms | median ms | rate | of peak | beside |\n"
      << "|---|---|---|---|---|---|---|---|---|\n";
  for (const Measurement& m : table.rows)
    out << fmt::format("| {} | {} | {} | {:.1e}{} | {:.4f} | {:.4f} | {} | {} | {} |\n", m.op, m.shape, m.kernel,
                       m.error, m.error <= m.bound ? "" : " WRONG", m.minimum_ms, m.median_ms, m.timed ? rate(m) : "-",
                       percent(m.fraction), ratios(m));
  if (!out.flush()) fail("cannot write {}", file);
}

void write_json(const Table& table, const std::string& file) {
  nlohmann::json rows = nlohmann::json::array();
  for (const Measurement& m : table.rows) {
    nlohmann::json row = {{"op", m.op},       {"shape", m.shape}, {"kernel", m.kernel},
                          {"error", m.error}, {"bound", m.bound}, {"correct", m.error <= m.bound}};
    if (m.timed) {
      const double seconds = m.median_ms * 1e-3;
      row["milliseconds"] = m.median_ms;
      row["minimum_milliseconds"] = m.minimum_ms;
      row["tflops"] = m.flops / seconds * 1e-12;
      row["gigabytes_per_second"] = m.bytes / seconds * 1e-9;
      if (m.fraction) row["fraction_of_peak"] = *m.fraction;
      if (m.cpu_share) row["cpu_time_over_wall_time"] = *m.cpu_share;
      for (const auto& [library, ratio] : m.ratios) row["library_time_over_ours"][library] = ratio;
    }
    rows.push_back(std::move(row));
  }
  std::ofstream out(file);
  out << nlohmann::json{{"device", table.device}, {"description", table.description}, {"measurements", rows}}.dump(1)
      << "\n";
  if (!out.flush()) fail("cannot write {}", file);
}

void print(const Measurement& m) {
  std::printf("%-26s %-72s %-10s error %.1e", m.op.c_str(), m.shape.c_str(), m.kernel.c_str(), m.error);
  if (!(m.error <= m.bound)) std::printf(" WRONG, above %.1e", m.bound);
  if (m.timed) {
    std::printf("  min %.4f ms, median %.4f ms  %s", m.minimum_ms, m.median_ms, rate(m).c_str());
    if (m.fraction) std::printf("  %s of %s", percent(m.fraction).c_str(), m.flops > 0 ? "peak" : "bandwidth");
    if (!m.ratios.empty()) std::printf("  beside %s", ratios(m).c_str());
    if (m.cpu_share) std::printf("  (CPU/wall %.2f)", *m.cpu_share);
  }
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace

int run(const Options& options, const Devices& devices) {
  std::unique_ptr<Device> device;
  std::string names;
  for (const auto& [name, make] : devices) {
    names += (names.empty() ? "" : ", ") + name;
    if (name == options.device) device = make();
  }
  if (!device) fail("--device is {}; allowed are {}", options.device, names);
  const std::vector<Device::Op> ops = device->ops();
  // Every line is understood before the first runs.
  std::vector<std::pair<std::string, Shape>> problems;
  for (const Problem& problem : choose_problems(options, ops)) {
    try {
      problems.emplace_back(problem.op, whole_shape(find(ops, problem.op, options.device), problem, options));
    } catch (const Error& error) {
      if (problem.where.empty()) throw;
      fail("{}: {}", problem.where, error.what());
    }
  }
  Table table{options.device, device->description(), {}};
  std::printf("# %s\n", table.description.c_str());
  int wrong = 0;
  std::vector<std::string> refused;
  for (const auto& [op, shape] : problems) {
    Measurement m;
    try {
      m = device->run(op, shape, options.run);
    } catch (const Error& error) {  // costs only itself
      refused.push_back(fmt::format("{} {}: {}", op, shape.text(), error.what()));
      if (problems.size() > 1) std::printf("%s\n", refused.back().c_str()), std::fflush(stdout);
      continue;
    }
    m.op = op;
    m.shape = shape.text();
    wrong += !(m.error <= m.bound);
    print(m);
    table.rows.push_back(std::move(m));
    // After every row: whoever ends this early has what there is.
    if (!options.markdown.empty()) write_markdown(table, options.markdown);
    if (!options.json.empty()) write_json(table, options.json);
  }
  if (wrong) std::printf("# %d of %zu problems are wrong\n", wrong, problems.size());
  if (problems.size() == 1 && !refused.empty()) fail("{}", refused.front());
  if (!refused.empty())
    fail("{} of {} problems could not be run; the first: {}", refused.size(), problems.size(), refused.front());
  return wrong != 0;
}

}  // namespace longhaul::bench
