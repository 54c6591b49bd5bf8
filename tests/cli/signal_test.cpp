// Signals and limits of time: the step is finished on all ranks, everything is saved, and the exit code says so.
#include <fmt/format.h>

#include <csignal>

#include "program.h"

using namespace longhaul::testing;

namespace {

// More steps than a test waits for, with a rate that does not depend on their number.
std::vector<std::string> endless(const Workplace& place, const std::string& name, std::vector<std::string> more = {}) {
  more.insert(more.end(), {"job.folder=" + (place / name).string(), "training.steps=100000000", "checkpoint.interval=0",
                           "metrics.log_freq=1000000", "lr_scheduler.decay_type=constant"});
  return more;
}

void wait_for_lines(Program& program, const fs::path& run, std::size_t lines) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (program.running() && lines_of(run / "metrics.jsonl") < lines && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  REQUIRE(program.running());
}

// Whatever stopped it: the newest checkpoint is of the last step that metrics.jsonl has, and nothing was exported.
std::int64_t check_stopped(const Ended& ended, const fs::path& run, const std::string& reason) {
  check_end(ended, 85, {"stopped by " + reason, "exit code 85"});
  const auto losses = losses_of(run);
  REQUIRE(!losses.empty());
  REQUIRE(!checkpoints_of(run).empty());
  CHECK(checkpoints_of(run).back() == fmt::format("step-{:08}", losses.rbegin()->first));
  CHECK(!fs::exists(run / "export"));
  return losses.rbegin()->first;
}

}  // namespace

TEST_CASE("a signal ends the run after its step, with everything saved, and the run goes on bitwise", "[threads]") {
  const Workplace place;
  const std::vector<std::pair<int, std::string>> signals = {
      {SIGTERM, "SIGTERM"}, {SIGUSR1, "SIGUSR1"}, {SIGINT, "SIGINT"}, {SIGHUP, "SIGHUP"}};
  for (std::size_t i = 0; i < signals.size(); ++i) {
    const auto& [signal, name] = signals[i];
    const std::string ranks = i % 2 ? "1" : "2";
    Program program(place / "log", train_command(place, endless(place, name, {"--ranks", ranks})));
    wait_for_lines(program, place / name, 3);
    REQUIRE(::kill(program.id(), signal) == 0);
    const std::int64_t stopped = check_stopped(program.wait(60), place / name, name);
    auto rest = endless(place, name, {"--ranks", ranks});
    rest.push_back("training.steps=" + std::to_string(stopped + 5));
    check_end(run_train(place, rest), 0, {fmt::format("resuming from step {}", stopped)});
    auto whole = rest;
    whole.push_back("job.folder=" + (place / (name + "-whole")).string());
    check_end(run_train(place, whole), 0, {});
    CHECK(losses_of(place / name) == losses_of(place / (name + "-whole")));
    CHECK(read_file(place / name / "export/model.safetensors") ==
          read_file(place / (name + "-whole") / "export/model.safetensors"));
  }
}

TEST_CASE("a second signal of a kind ends the process at once, two within a moment do not", "[.timing]") {
  const Workplace place;
  // A step of several seconds: the first signal alone has to wait for its end.
  const std::vector<std::string> slow = {"training.global_batch_size=200000"};
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1}) {
    Program program(place / "log", train_command(place, endless(place, "slow", slow)));
    const auto begin = std::chrono::steady_clock::now();
    while (program.running() && !fs::exists(place / "slow/metrics.jsonl") &&
           std::chrono::steady_clock::now() - begin < std::chrono::seconds(30))
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    ::kill(program.id(), signal);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    ::kill(program.id(), signal);  // as a launcher delivers one twice
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    CHECK(program.running());
    ::kill(program.id(), signal);
    CHECK(program.wait(5).code == 128 + signal);
    fs::remove_all(place / "slow");
  }
}

TEST_CASE("a signal before the first step ends the run without one", "[threads]") {
  const Workplace place;
  Program program(place / "log", train_command(place, endless(place, "early")));
  // In the middle of its set-up: after handlers are there, which the printed experiment shows.
  while (program.running() && count_of(read_file(place / "log"), "# the experiment, resolved") == 0)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  ::kill(program.id(), SIGTERM);
  check_end(program.wait(60), 85, {"stopped by SIGTERM after step"});
}

TEST_CASE("HUP that was ignored stays so, and a log whose reader went away ends nothing", "[threads]") {
  const Workplace place;
  std::string command = "trap '' HUP; exec";
  for (const auto& word : train_command(place, endless(place, "nohup"))) command += " '" + word + "'";
  Program program(place / "log", {"sh", "-c", command});
  wait_for_lines(program, place / "nohup", 3);
  ::kill(program.id(), SIGHUP);
  wait_for_lines(program, place / "nohup", lines_of(place / "nohup/metrics.jsonl") + 400);
  ::kill(program.id(), SIGTERM);
  check_stopped(program.wait(60), place / "nohup", "SIGTERM");

  command = "set -o pipefail;";
  for (const auto& word : train_command(place, {"job.folder=" + (place / "pipe").string(), "metrics.log_freq=1"}))
    command += " '" + word + "'";
  command += " 2>&1 | head -n 1";
  check_end(Program(place / "log", {"bash", "-c", command}).wait(), 0, {});
  CHECK(fs::exists(place / "pipe/export/model.safetensors"));
}

TEST_CASE("limits of time save and stop, and minutes between checkpoints hold without an interval", "[.timing]") {
  const Workplace place;
  for (const std::string ranks : {"1", "2"}) {
    const std::string name = "limit" + ranks;
    const auto limited = endless(place, name, {"--ranks", ranks, "training.time_limit=0.05"});
    const std::int64_t first =
        check_stopped(run_train(place, limited), place / name, "training.time_limit of 0.05 minutes");
    // The same command goes on, and stops again.
    CHECK(check_stopped(run_train(place, limited), place / name, "training.time_limit") > first);
  }
  const auto timed =
      endless(place, "timed",
              {"checkpoint.minutes=0.005", "training.time_limit=0.05", "checkpoint.keep_latest_k=0", "--ranks", "2"});
  check_stopped(run_train(place, timed), place / "timed", "training.time_limit");
  CHECK(checkpoints_of(place / "timed").size() >= 3);
  CHECK(checkpoints_of(place / "timed").size() <= 12);
}

TEST_CASE("the last step is saved whatever the interval, before the export", "[threads]") {
  const Workplace place;
  check_end(run_train(place, {"checkpoint.interval=0"}), 0, {});
  CHECK(checkpoints_of(place / "runs/experiment") == std::vector<std::string>{"step-00000012"});
  // Nothing can be exported: the checkpoint is there all the same, and the next start exports.
  write_file(place / "blocked", "");
  fs::create_directories(place / "run");
  fs::rename(place / "blocked", place / "run/export");
  const std::string folder = "job.folder=" + (place / "run").string();
  CHECK(run_train(place, {"checkpoint.interval=0", folder}).code == 1);
  CHECK(checkpoints_of(place / "run") == std::vector<std::string>{"step-00000012"});
  fs::remove(place / "run/export");
  check_end(run_train(place, {"checkpoint.interval=0", folder}), 0, {"resuming from step 12"});
  CHECK(fs::exists(place / "run/export/model.safetensors"));
}
