// longhaul verify
#include <cstdio>
#include <memory>

#include "cli/command.h"
#include "verify/faults.h"
#include "verify/verify.h"

namespace longhaul::cli {

std::function<int()> add_verify(CLI::App& app) {
  auto arguments = std::make_shared<ExperimentArguments>();
  auto options = std::make_shared<VerificationOptions>();
  add_experiment_arguments(app, *arguments);
  add_transport_argument(app, arguments->transport);
  app.add_flag("--locate", options->locate,
               "when something differs, name the first pass that moved the meaning, or the first op whose result on "
               "the ranks differs (slow; keeps every value)");
  app.add_flag("--force", options->force, "also when the reference run takes very long or much memory");
  app.add_flag(
      "--shrink", options->shrink,
      "verify a small model in place of one too large for one rank: fewer and smaller layers, one of each kind, "
      "and a shorter sequence, split by the same strategies over the same mesh. Weights are random, data are a "
      "part of the files or, without files, made up; the log says what each size became");
  app.add_option("--fault", options->fault, "plant a fault, so that verify can be seen to fail; the names stand below");
  app.footer("Faults that can be planted, and after which pass:\n" + fault_table());
  return [arguments, options, &app] {
    const Experiment experiment = load_experiment(arguments->file, app.remaining());
    return run_ranks(arguments->ranks, arguments->transport, experiment.device.type, [&](Communicator& world) {
      const VerificationReport report = verify_run(world, experiment, *options);
      if (world.rank() == 0) {
        std::fputs(report.text().c_str(), stdout);
        std::fflush(stdout);
      }
      return report.differs ? 1 : 0;
    });
  };
}

}  // namespace longhaul::cli
