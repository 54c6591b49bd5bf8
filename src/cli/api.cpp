// The public interface, on top of the rooms.
#include <algorithm>
#include <chrono>
#include <cstdio>

#include "cli/command.h"
#include "longhaul/longhaul.h"
#include "run/setup.h"
#include "run/stop_signals.h"
#include "train/metrics.h"
#include "train/trainer.h"

namespace longhaul {
namespace {

StepReport report_of(const StepMetrics& metrics, std::int64_t steps) {
  StepReport report;
  report.step = metrics.step;
  report.steps = steps;
  report.loss = metrics.loss;
  report.grad_norm = metrics.grad_norm;
  report.learning_rate = metrics.learning_rate;
  report.tokens_per_second = metrics.tokens_per_second;
  report.valid_tokens = metrics.valid_tokens;
  report.seconds = metrics.step_seconds;
  report.skipped = metrics.skipped;
  for (const ValidationResult& set : metrics.validation)
    if (set.loss) report.validation.emplace_back(set.name, *set.loss);
  return report;
}

}  // namespace

int train(const RunRequest& request) {
  const auto start = std::chrono::steady_clock::now();
  const StopSignals signals;
  const Experiment experiment = load_experiment(request.experiment, request.overrides);
  TrainHooks hooks{.on_step = nullptr, .stop = request.stop};
  if (request.on_step)
    hooks.on_step = [&](const StepMetrics& metrics) { request.on_step(report_of(metrics, experiment.training.steps)); };
  // What the caller is told and what it stops is of this process.
  const bool stays = request.ranks > 0 && request.transport == "auto" && (request.on_step || request.stop);
  const std::string transport = stays ? "threads" : request.transport;
  return cli::run_ranks(request.ranks, transport, experiment.device.type, [&](Communicator& world) {
    if (world.rank() == 0) {
      std::printf("# the experiment, resolved\n%s\n", to_yaml(experiment).c_str());
      std::fflush(stdout);  // before whatever is said on standard error
    }
    return train(world, experiment, start, hooks);
  });
}

Compilation compile(const RunRequest& request, const std::filesystem::path& dump) {
  const int ranks = std::max(1, request.ranks);
  const Experiment experiment = load_experiment(request.experiment, request.overrides);
  RunSetup setup = prepare_run(experiment, ranks, Hosts::one(ranks, experiment));
  if (!dump.empty()) setup.request.dump = dump;
  const CompiledModel model = compile_model(setup.request);
  return {model.arena_bytes, model.host_bytes, setup.decisions, memory_table(model), traffic_table(model, 0)};
}

}  // namespace longhaul
