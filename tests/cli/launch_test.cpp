// What commands make of a launcher: ranks as threads are refused in one of several processes, and commands that start
// no ranks do not look.
#include "program.h"

using namespace longhaul::testing;

TEST_CASE("--ranks in one of several processes of a launcher is refused before anything is written") {
  const Workplace place;
  const std::string experiment = (place / "experiment.yaml").string();
  const std::vector<std::vector<std::string>> commands = {
      {"train", experiment}, {"verify", experiment}, {"bench", "step", experiment}};
  for (const std::string variable : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"})
    for (auto command : commands) {
      command.insert(command.end(), {"--ranks", "2", "training.steps=2"});
      const Ended ended = Program(place / "log", longhaul_command(command), {variable + "=2"}).wait();
      check_end(ended, 1, {variable + "=2", "--ranks starts the ranks here", "Leave out --ranks"});
      CHECK(!fs::exists(place / "runs"));
    }
  check_end(run_train(place, {"--ranks", "2"}, {"RANK=0", "WORLD_SIZE=2"}), 1,
            {"WORLD_SIZE=2", "the processes are the ranks (with --transport sockets)"});
  // What is no number is no single process either; --ranks 1 is one thread in each of them, and as wrong.
  check_end(run_train(place, {"--ranks", "2"}, {"PMI_SIZE=many"}), 1, {"PMI_SIZE=many"});
  check_end(run_train(place, {"--ranks", "1"}, {"PMI_SIZE=2"}), 1, {"PMI_SIZE=2"});
  // One process may have threads, and the whole job's tasks say nothing about this step.
  check_end(run_train(place, {"--ranks", "2", "training.steps=2"}, {"SLURM_STEP_NUM_TASKS=1", "SLURM_NTASKS=4"}), 0,
            {"step      2/2"});
}

TEST_CASE("commands without ranks run under any launcher, and once in each process as alone") {
  const Workplace place;
  const std::string experiment = (place / "experiment.yaml").string();
  for (const std::string variable : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"}) {
    const auto run = [&](const std::vector<std::string>& arguments) {
      return Program(place / "log", longhaul_command(arguments), {variable + "=4"}).wait();
    };
    check_end(run({"inspect", (place / "model.json").string()}), 0, {"parameters"});
    check_end(run({"compile", experiment, "--ranks", "2"}), 0, {"memory of a rank"});
    check_end(run({"compile", experiment}), 0, {"memory of a rank"});
    check_end(run({"bench", "kernels", "--check-only", "--op", "add", "--shape", "count=10"}), 0, {"add"});
    check_end(run({"--version"}), 0, {"longhaul"});
  }
}

TEST_CASE("compile for other machines: where hosts end decides the split, and their memory is not this machine's") {
  const Workplace place;
  const std::string experiment = (place / "experiment.yaml").string();
  const auto compile = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"compile", experiment, "--ranks", "4"});
    return Program(place / "log", longhaul_command(more)).wait();
  };
  // Four heads: on one host all four ranks are ulysses; with two on a host ulysses stays inside it.
  check_end(compile({}), 0, {"ulysses 4"});
  check_end(compile({"--ranks-per-host", "2"}), 0, {"ulysses 2", "ring 2"});
  check_end(compile({"--ranks-per-host", "3"}), 1, {"--ranks-per-host is 3", "4 ranks"});
  check_end(compile({"--ranks-per-host", "8"}), 1, {"--ranks-per-host is 8"});
  const std::vector<std::string> gathers = {"--ranks-per-host", "2", "parallelism.zero_stage=3",
                                            "training.micro_batch_size=1"};
  check_end(compile(gathers), 0, {"THIS machine", "set device.memory"});
  auto with_memory = gathers;
  with_memory.push_back("device.memory=0.0001");
  check_end(compile(with_memory), 1, {"device.memory"});
}
