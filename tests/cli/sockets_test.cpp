// Ranks as processes that find one another without MPI: the run of threads to the bit, and what becomes of the others
// when one is killed, told to stop, or refused.
#include <fmt/format.h>
#include <signal.h>

#include <memory>

#include "comm/sockets/connection.h"
#include "program.h"

using namespace longhaul::testing;

namespace {

// A port that was free a moment ago.
std::string some_port() {
  const auto socket = longhaul::sockets::listen_on(0);
  return std::to_string(longhaul::sockets::port_of(*socket));
}

// The processes of a run, as torchrun's variables name them.
std::vector<std::unique_ptr<Program>> start_ranks(const Workplace& place, int ranks,
                                                  std::vector<std::string> arguments) {
  arguments.insert(arguments.end(), {"--transport", "sockets"});
  const std::string port = some_port();
  std::vector<std::unique_ptr<Program>> programs;
  for (int rank = 0; rank < ranks; ++rank)
    programs.push_back(std::make_unique<Program>(
        place / fmt::format("log{}", rank), train_command(place, arguments),
        std::vector<std::string>{fmt::format("RANK={}", rank), fmt::format("WORLD_SIZE={}", ranks),
                                 "MASTER_ADDR=127.0.0.1", "MASTER_PORT=" + port}));
  return programs;
}

void wait_for_steps(const Workplace& place, Program& program, std::size_t steps) {
  const auto start = std::chrono::steady_clock::now();
  while (program.running() && lines_of(place / "run/metrics.jsonl") < steps &&
         std::chrono::steady_clock::now() - start < std::chrono::seconds(60))
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

}  // namespace

TEST_CASE("processes that find one another train as threads do, to the bit, and go on from each other's checkpoints",
          "[threads]") {
  const Workplace place;
  const auto folder = [&](const std::string& name) { return "job.folder=" + (place / name).string(); };
  const std::vector<std::string> split = {"training.steps=4", "checkpoint.interval=2", "parallelism.sequence=2",
                                          "parallelism.zero_stage=3"};
  const auto with = [&](std::vector<std::string> first) {
    first.insert(first.end(), split.begin(), split.end());
    return first;
  };
  check_end(run_train(place, with({folder("threads"), "--ranks", "2"})), 0, {"step      4/4"});
  check_end(run_train(place, with({folder("started"), "--ranks", "2", "--transport", "sockets"})), 0,
            {"step      4/4"});
  auto ranks = start_ranks(place, 2, with({folder("found")}));
  check_end(ranks[0]->wait(), 0, {"step      4/4"});
  check_end(ranks[1]->wait(), 0, {});
  for (const char* name : {"started", "found"}) {
    CHECK(losses_of(place / name) == losses_of(place / "threads"));
    std::size_t files = 0;
    for (const auto& item : fs::recursive_directory_iterator(place / "threads/checkpoints/step-00000004")) {
      if (!item.path().filename().string().starts_with("rank")) continue;
      const auto same = place / name / "checkpoints/step-00000004" /
                        fs::relative(item.path(), place / "threads/checkpoints/step-00000004");
      INFO(same);
      CHECK(read_file(same) == read_file(item.path()));
      ++files;
    }
    CHECK(files > 0);
  }
  check_end(run_train(place, {folder("found"), "--ranks", "2", "training.steps=5"}), 0, {"resuming from step 4"});
}

TEST_CASE("a rank that is killed is named by the other, which exits with 87, and the run resumes", "[threads]") {
  const Workplace place;
  const std::vector<std::string> arguments = {"job.folder=" + (place / "run").string(), "checkpoint.interval=5",
                                              "lr_scheduler.decay_type=constant"};
  auto endless = arguments;
  endless.push_back("training.steps=1000000");
  for (const std::size_t victim : {0u, 1u}) {
    auto ranks = start_ranks(place, 2, endless);
    wait_for_steps(place, *ranks[0], 20 * (victim + 1));
    REQUIRE(::kill(ranks[victim]->id(), SIGKILL) == 0);
    CHECK(ranks[victim]->wait(20).code == 128 + SIGKILL);
    check_end(ranks[1 - victim]->wait(20), 87,
              {fmt::format("rank {}: rank {} (", 1 - victim, victim), "is gone, without a word"});
  }
  const auto before = losses_of(place / "run");
  auto more = arguments;
  more.push_back(fmt::format("training.steps={}", before.rbegin()->first + 5));
  auto ranks = start_ranks(place, 2, more);
  check_end(ranks[0]->wait(), 0, {"resuming from step"});
  check_end(ranks[1]->wait(), 0, {});
  const auto after = losses_of(place / "run");
  for (const auto& [step, loss] : before) CHECK(after.at(step) == loss);
}

TEST_CASE("a signal to one rank, or to the process that started them, stops all after the same step", "[threads]") {
  const Workplace place;
  const std::vector<std::string> arguments = {"job.folder=" + (place / "run").string(), "checkpoint.interval=0",
                                              "lr_scheduler.decay_type=constant", "training.steps=1000000"};
  auto ranks = start_ranks(place, 2, arguments);
  wait_for_steps(place, *ranks[0], 20);
  REQUIRE(::kill(ranks[1]->id(), SIGUSR1) == 0);
  check_end(ranks[0]->wait(60), 85, {"stopped by SIGUSR1 (rank 1)"});
  CHECK(ranks[1]->wait(60).code == 85);
  const std::size_t before = lines_of(place / "run/metrics.jsonl");

  auto started = arguments;
  started.insert(started.end(), {"--ranks", "2", "--transport", "sockets"});
  Program program(place / "log", train_command(place, started));
  wait_for_steps(place, program, before + 20);
  REQUIRE(::kill(program.id(), SIGTERM) == 0);
  check_end(program.wait(60), 85, {"stopped by SIGTERM (rank"});
  CHECK(checkpoints_of(place / "run").back() == fmt::format("step-{:08}", losses_of(place / "run").rbegin()->first));
}

TEST_CASE("a rank that finds no rank 0 says so, and ends at the first signal", "[threads]") {
  const Workplace place;
  Program program(place / "log", train_command(place, {"--transport", "sockets"}),
                  {"RANK=1", "WORLD_SIZE=2", "MASTER_ADDR=127.0.0.1", "MASTER_PORT=" + some_port()});
  const auto start = std::chrono::steady_clock::now();
  while (program.running() && read_file(place / "log").find("is looking for rank 0") == std::string::npos &&
         std::chrono::steady_clock::now() - start < std::chrono::seconds(40))
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  REQUIRE(::kill(program.id(), SIGTERM) == 0);
  const auto told = std::chrono::steady_clock::now();
  check_end(program.wait(), 128 + SIGTERM, {"sockets: rank 1 is looking for rank 0: 127.0.0.1:", "Connection refused"});
  CHECK(std::chrono::steady_clock::now() - told < std::chrono::seconds(5));
}

TEST_CASE("ranks that were given different things, or do not know how to talk, are refused", "[threads]") {
  const Workplace place;
  auto ranks = start_ranks(place, 1, {"training.steps=2"});  // one of one: as alone
  check_end(ranks[0]->wait(), 0, {"step      2/2"});
  const std::string port = some_port();
  std::vector<std::unique_ptr<Program>> two;
  for (int rank = 0; rank < 2; ++rank)
    two.push_back(std::make_unique<Program>(
        place / fmt::format("log{}", rank),
        train_command(place, {"--transport", "sockets", fmt::format("optimizer.lr={}e-3", rank + 1),
                              "job.folder=" + (place / "other").string()}),
        std::vector<std::string>{fmt::format("RANK={}", rank), "WORLD_SIZE=2", "MASTER_ADDR=127.0.0.1",
                                 "MASTER_PORT=" + port}));
  const Ended first = two[0]->wait(60), second = two[1]->wait(60);
  INFO(first.output << second.output);
  CHECK(first.code == 1);
  CHECK(second.code == 1);
  CHECK((first.output + second.output).find("optimizer.lr") != std::string::npos);
  CHECK(!fs::exists(place / "other/checkpoints"));

  check_end(run_train(place, {"training.steps=1"}, {"RANK=1", "WORLD_SIZE=2"}), 1,
            {"process 1 of 2", "--transport sockets"});
  check_end(run_train(place, {"--transport", "sockets"}), 1, {"nothing says which of how many processes this is"});
  check_end(run_train(place, {"--transport", "threads"}), 1, {"give --ranks N"});
  check_end(run_train(place, {"--transport", "mpi", "--ranks", "2"}), 1, {"mpirun -n 2"});
  check_end(run_train(place, {"--transport", "pigeons"}), 2, {"--transport"});
}
