#include "cli/command.h"

#include "base/error.h"
#include "base/log.h"
#include "comm/launch.h"
#include "comm/launcher_size.h"

namespace longhaul::cli {

const std::vector<Command>& commands() {
  static const std::vector<Command> table = {
      {"train", "train an experiment, or resume it", add_train},
      {"verify", "hold the ranks' programs against the specification on one rank: loss and every gradient", add_verify},
      {"inspect", "what a model file became: spec, parameters, FLOPs per token, bytes of state", add_inspect},
      {"export", "a run's checkpoint as a model folder that Hugging Face transformers loads", add_export},
      {"eval", "losses of a model by validation set, source and context", add_eval},
      {"generate", "let a model go on with a text", add_generate},
      {"report", "curves, decisions and warnings of runs as one page", add_report},
      {"compile", "compile an experiment without running it: decisions, memory, traffic", add_compile},
      {"plan", "what a run would need and take: memory to the byte, time by a profile, other ways, longest sequences",
       add_plan},
      {"calibrate", "measure what this machine does in a second: a profile that plan predicts by", add_calibrate},
      {"tokenize", "turn text files into token files that training reads", add_tokenize},
      {"bench", "time steps of an experiment", add_bench},
      {"completion", "what a shell completes, or the manual page, from the commands there are", add_completion},
  };
  return table;
}

void add_experiment_arguments(CLI::App& app, ExperimentArguments& arguments) {
  app.add_option("experiment", arguments.file, "experiment file (YAML or JSON)")->required();
  app.add_option("--ranks", arguments.ranks, "run N ranks as threads of this process, without MPI")
      ->check(CLI::Range(1, 4096));
  app.allow_extras();
  app.footer(
      "Any further argument overrides a key of the experiment: section.key=value or --section.key=value.\nEvery key: "
      "docs/experiment.md.");
}

int run_ranks(int ranks, const std::function<int(Communicator&)>& body) {
  if (ranks > 0) {
    refuse_several_processes();
  } else if (const auto launcher = launcher_size()) {
    // One process needs no MPI, should this build have none.
    if (mpi_available() || launcher->value != "1") return run_mpi(body);
  }
  return run_threads(ranks == 0 ? 1 : ranks, body);
}

}  // namespace longhaul::cli
