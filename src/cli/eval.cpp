// longhaul eval
#include <cstdio>
#include <memory>

#include "cli/command.h"
#include "train/evaluate.h"

namespace longhaul::cli {

std::function<int()> add_eval(CLI::App& app) {
  struct Arguments {
    ExperimentArguments experiment;
    EvaluationOptions options;
    std::int64_t step = -1;
    bool json = false;
  };
  auto arguments = std::make_shared<Arguments>();
  add_experiment_arguments(app, arguments->experiment);
  add_transport_argument(app, arguments->experiment.transport);
  app.add_option("--from", arguments->options.from,
                 "a run folder (job.folder), whose newest checkpoint is evaluated, or a model folder with weights; "
                 "default: model.weights of the experiment");
  app.add_option("--step", arguments->step, "of the run's checkpoint; default: the newest that is whole")
      ->check(CLI::NonNegativeNumber);
  app.add_flag("--training", arguments->options.training,
               "also on data.files, or each of data.sources; without validation sets that is so anyway");
  app.add_option("--tokens", arguments->options.tokens,
                 "a folder where text that becomes tokens is kept for the next time; default: a temporary one");
  app.add_flag("--json", arguments->json, "one line of JSON in place of the table");
  return [arguments, &app] {
    const Experiment experiment = load_experiment(arguments->experiment.file, app.remaining());
    if (arguments->step >= 0) arguments->options.step = arguments->step;
    return run_ranks(arguments->experiment.ranks, arguments->experiment.transport, experiment.device.type,
                     [&](Communicator& world) {
                       const EvaluationReport report = evaluate(world, experiment, arguments->options);
                       if (world.rank() == 0) {
                         std::fputs((arguments->json ? report.json() : report.text()).c_str(), stdout);
                         std::fflush(stdout);
                       }
                       return 0;
                     });
  };
}

}  // namespace longhaul::cli
