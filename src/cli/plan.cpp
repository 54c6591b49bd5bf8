// longhaul plan
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>

#include "base/error.h"
#include "cli/command.h"
#include "planner/plan_report.h"
#include "planner/timeline_svg.h"
#include "run/model_overrides.h"

namespace longhaul::cli {
namespace {

struct Arguments {
  ExperimentArguments experiment;
  std::filesystem::path cluster, timeline;
  int ranks_per_host = 0;  // 0: as the profile says, else all
  bool longest = false, compare = false, json = false, only = false;
};

// How many ranks share a host: as asked for, as the profile has it where that divides the ranks, else all of them.
int ranks_on_a_host(const Arguments& arguments, const Experiment& experiment, int ranks) {
  const int asked = arguments.ranks_per_host;
  if (asked > ranks || (asked && ranks % asked != 0))
    fail("--ranks-per-host is {}; it must divide the {} ranks that --ranks asks for", asked, ranks);
  if (asked) return asked;
  if (experiment.device.profile.empty()) return ranks;
  const std::int64_t usual = read_profile(experiment.device.profile).ranks_per_host;
  return ranks > usual && ranks % usual == 0 ? static_cast<int>(usual) : ranks;
}

void write_timeline(const PlanReport& report, const std::filesystem::path& file) {
  std::ofstream stream(file);
  stream << timeline_svg(memory_timeline(report.run.model),
                         fmt::format("{}, {} ranks, {} tokens a sequence", report.experiment,
                                     report.run.setup.request.mesh.world(), report.run.setup.sequence),
                         report.run.setup.request.memory_limit);
  stream.close();
  if (!stream) fail("cannot write {}", file.string());
}

void plan(const Arguments& arguments, Experiment experiment) {
  if (!arguments.cluster.empty()) experiment.device.profile = std::filesystem::absolute(arguments.cluster);
  const int ranks = std::max(1, arguments.experiment.ranks);
  const Hosts hosts = Hosts::target(ranks_on_a_host(arguments, experiment, ranks));
  const LoadedModel model = experiment_model(experiment);
  PlanReport report{arguments.experiment.file.string(), {}, {}, {}, {}, {}};
  try {
    report.run = plan_run(experiment, model, ranks, hosts);
  } catch (const Error& error) {
    // What does not fit may still be asked how far it would go, in text for people.
    if (!arguments.longest || arguments.json) throw;
    const LongestSequence longest = longest_sequence(experiment, model, ranks, hosts);
    std::printf("%s\n\nlongest sequence that fits: %lld tokens, %lld bytes of %lld\n  stopped by: %s\n", error.what(),
                static_cast<long long>(longest.tokens), static_cast<long long>(longest.bytes),
                static_cast<long long>(longest.limit), longest.stopped_by.c_str());
    return;
  }
  if (!arguments.only) {
    report.outlooks = outlooks_beside(report.run);
    report.others = other_runs(report.run);
  }
  if (arguments.longest) report.longest = longest_sequence(experiment, model, ranks, hosts);
  if (arguments.compare) report.compared = compare_runs(experiment, model, ranks, hosts);
  if (!arguments.timeline.empty()) write_timeline(report, arguments.timeline);
  const std::string text = arguments.json ? plan_json(report) : plan_text(report);
  std::fwrite(text.data(), 1, text.size(), stdout);
  if (!arguments.timeline.empty() && !arguments.json)
    std::printf("\nlive bytes over the program: %s\n", arguments.timeline.string().c_str());
  std::fflush(stdout);
}

}  // namespace

std::function<int()> add_plan(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  add_experiment_arguments(app, arguments->experiment);
  app.get_option("--ranks")->description("plan for N ranks; nothing runs, so any number will do");
  app.add_option("--ranks-per-host", arguments->ranks_per_host,
                 "so many ranks on each host, in order; by default as many as the profile says, else all on one")
      ->check(CLI::Range(1, 4096));
  app.add_option("--cluster", arguments->cluster,
                 "what the machine does in a second, a JSON file: one of configs/clusters or one that `longhaul "
                 "calibrate` measured; as device.profile=FILE");
  app.add_flag("--max-seq-len", arguments->longest, "search for the longest sequence that fits, and what stops it");
  app.add_flag("--compare", arguments->compare,
               "a table: data parallelism, sequences split by heads keeping all, making all again, or all but "
               "attention, and this plan");
  app.add_option("--memory-timeline", arguments->timeline,
                 "a file for a picture (SVG) of live bytes over the program, by category");
  app.add_flag("--only", arguments->only, "the plan alone: not what 10 GB more or less would change, nor other ways");
  app.add_flag("--json", arguments->json, "print one JSON object");
  return [arguments, &app] {
    plan(*arguments, load_experiment(arguments->experiment.file, app.remaining()));
    return 0;
  };
}

}  // namespace longhaul::cli
