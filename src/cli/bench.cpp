// longhaul bench
#include <memory>

#include "cli/command.h"
#include "train/bench_step.h"

namespace longhaul::cli {

std::function<int()> add_bench(CLI::App& app) {
  app.require_subcommand(1);
  CLI::App* step = app.add_subcommand("step", "time whole optimizer steps of an experiment; writes nothing");
  auto arguments = std::make_shared<ExperimentArguments>();
  auto options = std::make_shared<BenchStepOptions>();
  add_experiment_arguments(*step, *arguments);
  add_transport_argument(*step, arguments->transport);
  step->add_option("--steps", options->steps, "steps to time (default 5)")->check(CLI::Range(1, 1000000));
  step->add_option("--warmup", options->warmup, "steps before them (default 1; with device.graphs 2)")
      ->check(CLI::Range(0, 1000000));
  step->add_flag("--row", options->row,
                 "one line: ranks | fastest step in seconds | median | CPU time over wall time | share of the time (%) "
                 "waiting for other ranks | in collectives | in copies around them");
  step->add_flag(
      "--paced", options->paced,
      "computation takes at least what device.profile says of it, by timers: the schedule of that machine on "
      "this one (CPU ranks)");
  step->add_option("--trace", options->trace,
                   "a file for the last step in Chrome's trace format (Perfetto reads it): a row for each rank and "
                   "queue, times as they were");
  const auto kernels = add_bench_kernels(app);
  return [arguments, options, step, kernels, &app] {
    if (app.got_subcommand("kernels")) return kernels();
    const Experiment experiment = load_experiment(arguments->file, step->remaining());
    return run_ranks(arguments->ranks, arguments->transport, experiment.device.type, [&](Communicator& world) {
      bench_step(world, experiment, *options);
      return 0;
    });
  };
}

}  // namespace longhaul::cli
