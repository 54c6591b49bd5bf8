// Devices of ranks that are processes, whose messages NCCL carries or the devices themselves: what they compute, and
// how they end when a peer is killed or stands still.
#include <signal.h>

#include <chrono>
#include <memory>

#include "../cli/program.h"

using namespace longhaul::testing;

namespace {

std::vector<std::unique_ptr<Program>> start_two(const Workplace& place, const std::string& folder,
                                                const std::string& kind, std::vector<std::string> arguments) {
  arguments.insert(arguments.end(), {"--transport", "sockets", "device.type=emulator", "device.collectives=" + kind,
                                     "parallelism.sequence=2", "job.folder=" + (place / folder).string()});
  const std::string port = std::to_string(20000 + ::getpid() % 20000);
  std::vector<std::unique_ptr<Program>> programs;
  for (int rank = 0; rank < 2; ++rank)
    programs.push_back(
        std::make_unique<Program>(place / ("log" + std::to_string(rank)), train_command(place, arguments),
                                  std::vector<std::string>{"RANK=" + std::to_string(rank), "WORLD_SIZE=2",
                                                           "MASTER_ADDR=127.0.0.1", "MASTER_PORT=" + port}));
  return programs;
}

void wait_for_steps(const fs::path& run, Program& program, std::size_t steps) {
  const auto start = std::chrono::steady_clock::now();
  while (program.running() && lines_of(run / "metrics.jsonl") < steps &&
         std::chrono::steady_clock::now() - start < std::chrono::seconds(60))
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

}  // namespace

TEST_CASE("processes whose messages NCCL or push carries compute what threads compute, and resume", "[threads]") {
  const Workplace place;
  const auto train = [&](const std::string& folder, const std::vector<std::string>& more,
                         const std::vector<std::string>& says = {}) {
    std::vector<std::string> arguments = {"--ranks",
                                          "2",
                                          "parallelism.sequence=2",
                                          "parallelism.zero_stage=3",
                                          "device.type=emulator",
                                          "job.folder=" + (place / folder).string()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    check_end(run_train(place, arguments), 0, says);
  };
  train("threads", {"training.steps=4"});
  for (const std::string kind : {"nccl", "push"}) {
    const std::vector<std::string> says =  // of the emulator's NCCL, which counts a MiB for each
        kind == "nccl"
            ? std::vector<std::string>{"NCCL's communicators (1) take 1.0 MiB of the device besides the plan"}
            : std::vector<std::string>{};
    train(kind, {"training.steps=4", "device.collectives=" + kind}, says);
    train("processes " + kind, {"training.steps=4", "device.collectives=" + kind, "--transport", "sockets"}, says);
    train("graphs " + kind,
          {"training.steps=4", "device.collectives=" + kind, "--transport", "sockets", "device.graphs=true"},
          {"a step takes 0 launches and 3 of graphs, which hold "});
  }
  for (const std::string steps : {"2", "4"})
    train("pieces", {"training.steps=" + steps, "lr_scheduler.decay_type=constant",
                     "device.collectives=" + std::string(steps == "2" ? "nccl" : "push"), "--transport", "sockets"});
  train("constant", {"training.steps=4", "lr_scheduler.decay_type=constant"});
  for (const char* name : {"nccl", "push", "processes nccl", "processes push", "graphs nccl", "graphs push"}) {
    CHECK(losses_of(place / name) == losses_of(place / "threads"));
    CHECK(read_file(place / name / "export/model.safetensors") ==
          read_file(place / "threads/export/model.safetensors"));
  }
  CHECK(losses_of(place / "pieces") == losses_of(place / "constant"));
  CHECK(read_file(place / "pieces/export/model.safetensors") == read_file(place / "constant/export/model.safetensors"));
}

TEST_CASE(
    "a rank that is killed while its peer's device waits for it is named at once; one that stands still after "
    "device.timeout",
    "[threads]") {
  const Workplace place;
  const std::vector<std::string> endless = {"training.steps=1000000", "checkpoint.interval=0",
                                            "lr_scheduler.decay_type=constant"};
  auto killed = endless, stopping = endless;
  killed.push_back("training.global_batch_size=64");
  // Of many micro-batches, so that a rank that stops amid a step has its peer's device wait, not its peer's host.
  stopping.insert(stopping.end(), {"device.timeout=1", "training.global_batch_size=128"});
  for (const std::string kind : {"nccl", "push"}) {
    {
      auto ranks = start_two(place, "killed by " + kind, kind, killed);
      wait_for_steps(place / ("killed by " + kind), *ranks[0], 3);
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      REQUIRE(::kill(ranks[1]->id(), SIGKILL) == 0);
      check_end(ranks[0]->wait(30), 87,
                {"is gone, without a word", "another rank has failed or is gone; the device of this rank ",
                 "program accumulate", "among ranks 0, 1 by " + kind});
    }
    auto stopped = stopping;
    if (kind == "push") stopped.push_back("device.graphs=true");
    auto ranks = start_two(place, "stopped by " + kind, kind, stopped);
    wait_for_steps(place / ("stopped by " + kind), *ranks[0], 2);
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    REQUIRE(::kill(ranks[1]->id(), SIGSTOP) == 0);
    check_end(ranks[0]->wait(30), 1, {"rank 0: program ", "among ranks 0, 1 by " + kind, "device.timeout"});
  }
}

#ifdef LONGHAUL_WITH_MPI
TEST_CASE("under mpirun NCCL and push carry the messages of devices", "[mpi]") {
  const Workplace place;
  check_end(run_train(place, {"--ranks", "2", "training.steps=2", "device.type=emulator",
                              "job.folder=" + (place / "threads").string()}),
            0, {});
  for (const std::string kind : {"nccl", "push"}) {
    std::vector<std::string> command = {"mpirun", "--oversubscribe", "--allow-run-as-root", "-n", "2"};
    for (const auto& word :
         train_command(place, {"training.steps=2", "device.type=emulator", "device.collectives=" + kind,
                               "job.folder=" + (place / kind).string()}))
      command.push_back(word);
    check_end(Program(place / "log", command).wait(), 0, {});
    CHECK(losses_of(place / "threads") == losses_of(place / kind));
    CHECK(read_file(place / "threads/export/model.safetensors") ==
          read_file(place / kind / "export/model.safetensors"));
  }
}
#endif
