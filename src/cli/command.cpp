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
  app.add_option("--ranks", arguments.ranks,
                 "run N ranks here, without MPI: threads of this process; on GPUs processes")
      ->check(CLI::Range(1, 4096));
  app.allow_extras();
  app.footer(
      "Any further argument overrides a key of the experiment: section.key=value or --section.key=value.\nEvery key: "
      "docs/experiment.md.");
}

const std::vector<std::string>& transports() {
  static const std::vector<std::string> names = {"auto", "threads", "mpi", "sockets"};
  return names;
}

void add_transport_argument(CLI::App& app, std::string& transport) {
  app.add_option("--transport", transport,
                 "how ranks talk: threads, mpi, sockets (processes that find one another without MPI; with --ranks N "
                 "they are started here), or auto (with --ranks threads, or on GPUs sockets; MPI under a launcher)")
      ->check(CLI::IsMember(transports()));
}

int run_ranks(int ranks, const std::string& transport, DeviceType device,
              const std::function<int(Communicator&)>& body) {
  if (ranks > 0) {
    if (transport == "mpi")
      fail("--transport mpi and --ranks {}: MPI's launcher says how many ranks there are; start them with mpirun -n {}",
           ranks, ranks);
    refuse_several_processes();
    const bool by_device = transport == "auto" && device == DeviceType::cuda && ranks > 1;
    if (by_device)
      log_info("device.type is cuda: {} processes, a GPU each (--transport threads: threads of this one)", ranks);
    return by_device || transport == "sockets" ? run_processes(ranks, body) : run_threads(ranks, body);
  }
  if (transport == "threads") fail("--transport threads needs to know how many: give --ranks N");
  if (transport == "mpi") return run_mpi(body);
  if (transport == "sockets") return run_sockets(body);
  if (const auto launcher = launcher_size()) {
    if (mpi_available()) return run_mpi(body);
    // One process needs neither.
    if (launcher->value != "1") {
      log_info("this build has no MPI: the {} processes of {} find one another by sockets", launcher->value,
               launcher->variable);
      return run_sockets(body);
    }
  }
  refuse_unled_processes();
  return run_threads(1, body);
}

}  // namespace longhaul::cli
