// Two runs in one run folder, from outside.
#include <algorithm>
#include <csignal>

#include "program.h"

using namespace longhaul::testing;

TEST_CASE("a second run in a run folder is refused and names the first, which ends as if nothing was", "[threads]") {
  const Workplace place;
  const auto arguments = [&](const std::string& name) {
    return std::vector<std::string>{"job.folder=" + (place / name).string(), "training.steps=3000",
                                    "checkpoint.interval=100", "metrics.log_freq=1000"};
  };
  check_end(run_train(place, arguments("alone")), 0, {});
  Program first(place / "first.log", train_command(place, arguments("shared")), {"SLURM_JOB_ID=77"});
  const auto wait_for = [&](std::size_t lines) {
    while (first.running() && lines_of(place / "shared/metrics.jsonl") < lines)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
  };
  wait_for(3);
  const std::string holder = "process " + std::to_string(first.id()) + " on host ";
  ::kill(first.id(), SIGSTOP);  // it must not end meanwhile
  for (const std::string ranks : {"1", "2"}) {
    auto second = arguments("shared");
    second.insert(second.end(), {"--ranks", ranks});
    check_end(run_train(place, second), 1, {"in use by", holder, "job 77", "job.folder"});
    REQUIRE(first.running());
  }
  ::kill(first.id(), SIGCONT);
  check_end(first.wait(), 0, {});
  CHECK(losses_of(place / "shared") == losses_of(place / "alone"));
  CHECK(!fs::exists(place / "shared/lock"));
}

TEST_CASE("a killed run's lock is taken over with a line that says so", "[threads]") {
  const Workplace place;
  const std::string folder = "job.folder=" + (place / "run").string();
  Program first(place / "first.log", train_command(place, {folder, "training.steps=10000000"}));
  const auto committed = [&] {  // not one that is still being written, under a temporary name
    const auto all = checkpoints_of(place / "run");
    return std::any_of(all.begin(), all.end(), [](const std::string& name) { return name.starts_with("step-"); });
  };
  while (first.running() && !committed()) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  // A stopped one is not dead.
  ::kill(first.id(), SIGSTOP);
  check_end(run_train(place, {folder}), 1, {"in use by", "its process lives"});
  const std::string process = "process " + std::to_string(first.id());
  first.kill();
  check_end(run_train(place, {folder, "training.steps=10000005", "training.time_limit=0"}), 85,
            {"took over the lock of " + process, "no such process", "resuming from step"});
}
