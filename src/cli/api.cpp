// The public interface, on top of the rooms.
#include <algorithm>
#include <chrono>
#include <cstdio>

#include "cli/command.h"
#include "longhaul/longhaul.h"
#include "run/setup.h"
#include "run/stop_signals.h"
#include "train/trainer.h"

namespace longhaul {

int train(const RunRequest& request) {
  const auto start = std::chrono::steady_clock::now();
  const StopSignals signals;
  const Experiment experiment = load_experiment(request.experiment, request.overrides);
  return cli::run_ranks(request.ranks, [&](Communicator& world) {
    if (world.rank() == 0) {
      std::printf("# the experiment, resolved\n%s\n", to_yaml(experiment).c_str());
      std::fflush(stdout);  // before whatever is said on standard error
    }
    return train(world, experiment, start);
  });
}

Compilation compile(const RunRequest& request, const std::filesystem::path& dump) {
  const int ranks = std::max(1, request.ranks);
  RunSetup setup = prepare_run(load_experiment(request.experiment, request.overrides), ranks, Hosts::one(ranks));
  if (!dump.empty()) setup.request.dump = dump;
  const CompiledModel model = compile_model(setup.request);
  return {model.arena_bytes, setup.decisions, memory_table(model), traffic_table(model, 0)};
}

}  // namespace longhaul
