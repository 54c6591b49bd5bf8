#include <algorithm>
#include <map>

#include "base/error.h"
#include "ir/op_definition.h"
#include "planner/plan_report.h"
#include "run/activation_choice.h"

namespace longhaul {
namespace {

std::string gigabytes(std::int64_t bytes) {
  return fmt::format("{:.2f} GB", static_cast<double>(bytes) * 1e-9);
}

std::string seconds_text(double seconds) {
  return seconds >= 100 ? fmt::format("{:.0f} s", seconds)
         : seconds >= 1 ? fmt::format("{:.2f} s", seconds)
                        : fmt::format("{:.2f} ms", 1e3 * seconds);
}

std::string speed_text(double tokens_per_second) {
  return fmt::format("{:.{}f} tokens/s", tokens_per_second, tokens_per_second < 100 ? 1 : 0);
}

// Longest first.
template <typename Name>
std::string shares(std::vector<std::pair<double, Name>> parts, double total, std::size_t most) {
  std::stable_sort(parts.begin(), parts.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  std::string text;
  for (std::size_t i = 0; i < std::min(most, parts.size()); ++i)
    if (parts[i].first > 0)
      text += fmt::format("  {:22} {:>10}  {:5.1f} %\n", parts[i].second, seconds_text(parts[i].first),
                          100 * parts[i].first / total);
  return text;
}

// How often a layer's attention runs forward, and its gradient, in how many chunks of heads that is; the most of any
// layer.
std::pair<int, int> chunks_of_heads(const CompiledModel& model) {
  std::map<std::int32_t, std::pair<int, int>> chunks;
  const auto program = std::find_if(model.kinds.begin(), model.kinds.end(), is_accumulate);
  if (program == model.kinds.end()) return {};
  std::pair<int, int> most;
  for (const Op& op : model.program(*program).graph.ops) {
    auto& [forward, backward] = chunks[op.layer];
    forward += op.is("attention") && op.phase == Phase::forward;
    backward += op.is("attention_gradient") || op.is("attention_gradient_add");
    most = {std::max(most.first, forward), std::max(most.second, backward)};
  }
  return most;
}

std::string memory_text(const PlannedRun& run) {
  const MemoryPeak peak = memory_peak(run.model);
  const std::int64_t limit = run.setup.request.memory_limit;
  std::string text =
      fmt::format("memory of a rank, exact: {} bytes ({})", run.model.arena_bytes, gigabytes(run.model.arena_bytes));
  if (limit) text += fmt::format(", of {} that it may take", limit);
  text += '\n';
  for (int k = 0; k < memory_categories; ++k)
    if (const auto bytes = peak.bytes[static_cast<std::size_t>(k)])
      text += fmt::format("  {:22} {:>16}\n", name_of(static_cast<MemoryCategory>(k)), bytes);
  if (peak.gaps) text += fmt::format("  {:22} {:>16}\n", "gaps between buffers", peak.gaps);
  const std::int64_t host = host_bytes(run);
  text += fmt::format("host memory of a rank, exact: {} bytes{}\n", host,
                      run.model.host_bytes > 0
                          ? fmt::format(" (of which {} wait for the backward pass)", run.model.host_bytes)
                      : host ? " (the copy of checkpoint.asynchronous)"
                             : " (nothing is moved there)");
  if (run.setup.activations) {
    ActivationChoice& choice = *run.setup.activations;
    if (const auto plan = choice.within(activation_limit(run.setup).first))
      text += fmt::format("made again in backward, steps of those there are: {}\n", choice.describe(*plan));
  }
  if (const auto [forward, backward] = chunks_of_heads(run.model); forward > 1 || backward > 1)
    text += fmt::format("attention in chunks of heads, most of a layer: {} forward, {} backward\n", forward, backward);
  return text;
}

// What collectives take, and how much of it nothing runs beside, by link; nothing where they take turns.
std::string hidden_text(const ProgramCost& time) {
  std::string text;
  for (const Work link : {Work::host_links, Work::network}) {
    const double hidden = time.hidden[static_cast<std::size_t>(link)];
    const double exposed = time.seconds[static_cast<std::size_t>(link)];
    if (hidden > 0)
      text += fmt::format("  {}: collectives take {}, of which {} run beside computation and {} do not\n",
                          name_of(link), seconds_text(hidden + exposed), seconds_text(hidden), seconds_text(exposed));
  }
  return text;
}

std::string time_text(const PlannedRun& run) {
  if (!run.time)
    return "time: not predicted, for nothing says what the machine does: give --cluster or device.profile\n";
  const ProgramCost& time = *run.time;
  const double total = time.total();
  std::string text =
      fmt::format("time of a step, predicted by {} and not measured: {} ({}, {:.1f} % of the peak)\n",
                  run.setup.profile->name, seconds_text(total), speed_text(run.speed()), 100 * run.utilisation());
  std::vector<std::pair<double, std::string_view>> works_of_it;
  for (int i = 0; i < works; ++i)
    works_of_it.emplace_back(time.seconds[static_cast<std::size_t>(i)], name_of(static_cast<Work>(i)));
  return text + shares(works_of_it, total, works) + hidden_text(time);
}

std::string limits_text(const PlannedRun& run) {
  std::string text = fmt::format("what limits it\n  memory: {}\n", describe_peak(run.model));
  if (!run.time) return text;
  const auto most = std::max_element(run.time->seconds.begin(), run.time->seconds.end());
  const auto op = std::max_element(run.time->ops.begin(), run.time->ops.end(),
                                   [](const auto& a, const auto& b) { return a.second < b.second; });
  text += fmt::format("  time: {}, {:.1f} % of a step; the op that takes most is {}, {:.1f} %\n",
                      name_of(static_cast<Work>(most - run.time->seconds.begin())), 100 * *most / run.time->total(),
                      op->first, 100 * op->second / run.time->total());
  return text;
}

std::string outlook_text(const PlannedRun& run, const Outlook& one, std::int64_t limit) {
  const std::int64_t difference = one.limit - limit;
  std::string text = fmt::format("  {} GB {} ({} bytes): ", std::abs(difference) / 1'000'000'000,
                                 difference > 0 ? "more" : "less", one.limit);
  if (one.bytes) text += fmt::format("takes {}, ", *one.bytes);
  if (one.seconds)
    text += fmt::format("predicted {} ({:+.1f} %); ", seconds_text(*one.seconds),
                        100 * (*one.seconds / run.time->total() - 1));
  return text + one.activations + "\n";
}

}  // namespace

std::string plan_text(const PlanReport& report) {
  const PlannedRun& run = report.run;
  std::string text = fmt::format("plan of {} for {} ranks, {} on a host: {} tokens a sequence\n", report.experiment,
                                 run.setup.request.mesh.world(), run.setup.hosts.neighbours, run.setup.sequence);
  for (const auto& decision : run.setup.decisions) text += "# " + decision + "\n";
  text += "\n" + memory_text(run) + "\n" + time_text(run) + "\n" + limits_text(run);
  if (!report.outlooks.empty()) {
    text += "\nwhat other limits of memory would change\n";
    for (const Outlook& one : report.outlooks) text += outlook_text(run, one, activation_limit(run.setup).first);
  }
  if (!report.others.empty()) {
    text += "\nother ways, the best first, and why they were not taken\n";
    for (const OtherRun& one : report.others)
      text += fmt::format("  {:46} {:>12}  {}\n", one.name, one.bytes ? gigabytes(*one.bytes) : "", one.verdict);
  }
  if (report.longest) {
    const LongestSequence& longest = *report.longest;
    text += fmt::format(
        "\nlongest sequence that fits: {} tokens, {} bytes of {} (in steps of {} tokens)\n  stopped by: {}\n",
        longest.tokens, longest.bytes, longest.limit, longest.step, longest.stopped_by);
  }
  if (!report.compared.empty()) {
    text += fmt::format("\n{:60} {:>12} {:>20} {:>12}\n",
                        fmt::format("compared at {} tokens a sequence", run.setup.sequence), "a rank", "predicted",
                        "longest");
    for (const ComparedPlan& one : report.compared) {
      if (!one.refusal.empty()) {
        text += fmt::format("{:60} refused: {}\n", one.name, one.refusal);
        continue;
      }
      text += fmt::format("{:60} {:>12} {:>20} {:>12}\n", one.name, one.bytes ? gigabytes(*one.bytes) : "",
                          !one.fits   ? "does not fit"
                          : one.speed ? speed_text(*one.speed)
                                      : "fits",
                          one.longest ? std::to_string(one.longest) : "-");
    }
  }
  return text;
}

std::vector<Outlook> outlooks_beside(const PlannedRun& run) {
  std::vector<Outlook> list;
  if (!run.setup.activations) return list;
  constexpr std::int64_t amount = 10'000'000'000;
  const std::int64_t limit = activation_limit(run.setup).first;
  list.push_back(outlook(run, limit + amount));
  if (limit > amount) list.push_back(outlook(run, limit - amount));
  return list;
}

}  // namespace longhaul
