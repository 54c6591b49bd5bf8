// The command line: one file a subcommand, each entered in the table of commands().
#pragma once
#include <CLI/CLI.hpp>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "config/experiment.h"

namespace longhaul::cli {

/// One subcommand: adds its arguments to `app` and returns what runs them (its result is the exit code).
struct Command {
  const char* name;
  const char* summary;
  std::function<int()> (*add)(CLI::App& app);
};
const std::vector<Command>& commands();

/// An experiment file, overrides and the number of ranks: what most commands take.
struct ExperimentArguments {
  std::filesystem::path file;
  std::vector<std::string> overrides;
  int ranks = 0;  // 0: as launched (one process, or the launcher's)
  std::string transport = "auto";
};
void add_experiment_arguments(CLI::App& app, ExperimentArguments& arguments);

/// How ranks may talk to one another: what --transport takes.
const std::vector<std::string>& transports();
/// --transport, for commands that start ranks.
void add_transport_argument(CLI::App& app, std::string& transport);

/// Runs body on the ranks asked for. `transport` auto: for --ranks N threads of this process, on `device` cuda as
/// sockets (a process a GPU, which is logged); the launcher's processes under MPI (a build without MPI: by sockets,
/// which is logged), else one rank. threads: threads, with --ranks. mpi: the launcher's processes. sockets: --ranks N
/// starts N processes here, else the launcher's find one another (run_sockets). Throws Error for --ranks in one of
/// several processes of a launcher, for what does not go together, and where the environment speaks of several
/// processes by RANK and WORLD_SIZE and nobody said how they talk. A body that throws ends all of them with a nonzero
/// code.
int run_ranks(int ranks, const std::string& transport, DeviceType device,
              const std::function<int(Communicator&)>& body);

// ---- the subcommands
std::function<int()> add_train(CLI::App& app);
std::function<int()> add_bench(CLI::App& app);
std::function<int()> add_bench_kernels(CLI::App& bench);  // a subcommand of bench
std::function<int()> add_verify(CLI::App& app);
std::function<int()> add_inspect(CLI::App& app);
std::function<int()> add_export(CLI::App& app);
std::function<int()> add_eval(CLI::App& app);
std::function<int()> add_generate(CLI::App& app);
std::function<int()> add_report(CLI::App& app);
std::function<int()> add_compile(CLI::App& app);
std::function<int()> add_plan(CLI::App& app);
std::function<int()> add_calibrate(CLI::App& app);
std::function<int()> add_tokenize(CLI::App& app);
std::function<int()> add_completion(CLI::App& app);

}  // namespace longhaul::cli
