// longhaul compile
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>

#include "base/error.h"
#include "cli/command.h"
#include "run/setup.h"

namespace longhaul::cli {
namespace {

struct Arguments {
  ExperimentArguments experiment;
  std::filesystem::path dump, dot;
  int ranks_per_host = 0;  // 0: all
};

void print_compilation(const Experiment& experiment, const Arguments& arguments, int ranks, const Hosts& hosts) {
  RunSetup setup = prepare_run(experiment, ranks, hosts);
  if (!arguments.dump.empty()) setup.request.dump = arguments.dump;
  const CompiledModel model = compile_model(setup.request);
  for (const auto& decision : setup.decisions) std::printf("# %s\n", decision.c_str());
  std::printf("%s\n%s\n%s", memory_table(model).c_str(), activation_table(model).c_str(),
              traffic_table(model, 0).c_str());
  if (const std::string beside = overlap_table(model); !beside.empty()) std::printf("\n%s", beside.c_str());
  if (!setup.request.dump.empty())
    std::printf("IR after every pass, programs and the memory table: %s\n", setup.request.dump.string().c_str());
  if (!arguments.dot.empty()) {
    const auto largest =
        std::max_element(model.programs.begin(), model.programs.end(),
                         [](const auto& a, const auto& b) { return a->graph.ops.size() < b->graph.ops.size(); });
    std::ofstream file(arguments.dot);
    file << print_dot((*largest)->graph);
    file.close();
    if (!file) fail("cannot write {}", arguments.dot.string());
    std::printf("program %s as a GraphViz graph: %s\n", (*largest)->graph.name.c_str(), arguments.dot.string().c_str());
  }
  std::fflush(stdout);
}

}  // namespace

std::function<int()> add_compile(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  add_experiment_arguments(app, arguments->experiment);
  app.get_option("--ranks")->description("compile for N ranks; nothing runs, so any number will do");
  app.add_option("--ranks-per-host", arguments->ranks_per_host,
                 "the hosts that the run is meant for: so many ranks each, in order; all on one by default. Give "
                 "device.memory and training.threads as they will be there")
      ->check(CLI::Range(1, 4096));
  app.add_option("--dump-ir", arguments->dump,
                 "a folder for the IR after every pass, the programs and the memory table (as LONGHAUL_DUMP)");
  app.add_option("--dot", arguments->dot, "a file for the largest program as a GraphViz graph");
  return [arguments, &app] {
    const Experiment experiment = load_experiment(arguments->experiment.file, app.remaining());
    // Ranks asked for are never started, and no launcher is looked at: one process compiles for them.
    const int ranks = std::max(1, arguments->experiment.ranks), here = arguments->ranks_per_host;
    if (here > ranks || (here && ranks % here != 0))
      fail("--ranks-per-host is {}; it must divide the {} ranks that --ranks asks for", here, ranks);
    print_compilation(experiment, *arguments, ranks, here ? Hosts::target(here) : Hosts::one(ranks, experiment));
    return 0;
  };
}

}  // namespace longhaul::cli
