// longhaul train
#include <memory>

#include "cli/command.h"
#include "train/trainer.h"

namespace longhaul::cli {

std::function<int()> add_train(CLI::App& app) {
  auto arguments = std::make_shared<ExperimentArguments>();
  add_experiment_arguments(app, *arguments);
  return [arguments, &app] {
    const Experiment experiment = load_experiment(arguments->file, app.remaining());
    return run_ranks(arguments->ranks, [&](Communicator& world) {
      if (world.rank() == 0) std::printf("# the experiment, resolved\n%s\n", to_yaml(experiment).c_str());
      return train(world, experiment);
    });
  };
}

}  // namespace longhaul::cli
