// longhaul train
#include <memory>

#include "cli/command.h"
#include "longhaul/longhaul.h"

namespace longhaul::cli {

std::function<int()> add_train(CLI::App& app) {
  auto arguments = std::make_shared<ExperimentArguments>();
  add_experiment_arguments(app, *arguments);
  add_transport_argument(app, arguments->transport);
  return [arguments, &app] {
    return train(RunRequest{arguments->file, app.remaining(), arguments->ranks, arguments->transport});
  };
}

}  // namespace longhaul::cli
