// What a fault of the system is, what damage is, and what is neither.
#include "injected.h"

using namespace longhaul::testing;

TEST_CASE("a checkpoint that the system does not let be read is not taken for damaged") {
  if (!can_inject()) return;
  FaultyRuns runs;
  for (const auto& [code, reason] : {std::pair{EMFILE, "Too many open files"},
                                     {ENOMEM, "Cannot allocate memory"},
                                     {ESTALE, "Stale file handle"},
                                     {EACCES, "Permission denied"}})
    for (const std::string file : {"step-00000002/manifest", "step-00000002/rank-"}) {
      const Ended ended = runs.go_on({.at = 1, .action = std::to_string(code), .only = file, .calls = "open"});
      check_end(ended, 1, {"cannot be read now", "step-00000002", reason});
      CHECK(checkpoints_of(runs.run()) == checkpoints_of(runs.place / "template"));
      runs.check_recovery(ended, false);
    }
  // Nothing of the file can be read: the disk or the network, not the file.
  check_end(
      runs.go_on({.at = 1, .action = std::to_string(EIO), .repeat = 0, .only = "rank-", .calls = "pread,pread64"}), 1,
      {"cannot be read now", "rank-00000.bin", "Input/output error"});
  // Once, and never again.
  check_end(runs.go_on({.at = 1, .action = std::to_string(EIO), .only = "rank-", .calls = "pread,pread64"}), 0,
            {"resuming from step 2"});
}

TEST_CASE("a bad sector moves on to the older checkpoint") {
  if (!can_inject()) return;
  FaultyRuns runs;
  // Three attempts at one place fail; elsewhere the file can be read.
  const Ended ended = runs.go_on(
      {.at = 3, .action = std::to_string(EIO), .repeat = 3, .only = "step-00000002/rank-", .calls = "pread,pread64"});
  check_end(ended, 0, {"skipped checkpoint", "step-00000002", "bad sector", "resuming from step 1"});
  CHECK(losses_of(runs.run()) == losses_of(runs.place / "whole"));
}

TEST_CASE("checkpoints of which none is whole are refused, unless restart is asked for") {
  const Workplace place;
  const fs::path run = place / "run";
  const std::vector<std::string> arguments = {"job.folder=" + run.string()};
  check_end(run_train(place, arguments), 0, {});
  const auto losses = losses_of(run);
  const std::string metrics = read_file(run / "metrics.jsonl");
  for (const auto& name : checkpoints_of(run)) fs::resize_file(run / "checkpoints" / name / "manifest.json", 100);
  check_end(run_train(place, arguments), 1, {"none of them is whole", "2 checkpoints", "checkpoint.resume=restart"});
  CHECK(read_file(run / "metrics.jsonl") == metrics);
  auto restart = arguments;
  restart.push_back("checkpoint.resume=restart");
  check_end(run_train(place, restart), 0, {"skipped checkpoint", "starting at step 0"});
  CHECK(losses_of(run) == losses);
  // Earlier lines are kept beside the new ones.
  CHECK(read_file(run / "metrics-replaced.jsonl") == metrics);
}

TEST_CASE("what comes after a commit cannot end a run") {
  if (!can_inject()) return;
  FaultyRuns runs;
  for (const auto& [calls, only] : {std::pair{"rename", "checkpoints/step-"},
                                    {"unlinkat,rmdir", "checkpoints/.tmp-step"},
                                    {"fsync", "run/checkpoints"}}) {
    INFO(calls);
    const Ended ended = runs.go_on({.at = 1, .action = std::to_string(EIO), .repeat = 0, .only = only, .calls = calls});
    INFO(ended.output);
    if (std::string(calls) == "fsync") continue;  // of files too: those are before the commit
    CHECK(ended.code == 0);
    CHECK_THAT(ended.output, Catch::Contains("cannot remove"));
    runs.check_recovery(ended, false);
  }
}

TEST_CASE("a save that the disk refuses is tried again, and lines of metrics wait") {
  if (!can_inject()) return;
  FaultyRuns runs;
  const std::string full = std::to_string(ENOSPC);
  // The save of step 3 only.
  const Ended once = runs.go_on({.at = 1, .action = full, .only = "checkpoints/", .calls = "fallocate"});
  check_end(once, 0, {"the checkpoint of step 3 cannot be written", "No space left", "tries again"});
  CHECK(checkpoints_of(runs.run()) == std::vector<std::string>{"step-00000002", "step-00000004"});
  CHECK(losses_of(runs.run()).size() == 4);
  // The last one must succeed.
  check_end(runs.go_on({.at = 1, .action = full, .repeat = 0, .only = "checkpoints/", .calls = "fallocate"}), 1,
            {"the checkpoint of step 4 cannot be written", "last checkpoint: step 2"});
  const Ended lines = runs.go_on({.at = 1, .action = full, .only = "metrics.jsonl", .calls = "write"});
  check_end(lines, 0, {"metrics.jsonl", "wait in memory", "can be written again"});
  runs.check_recovery(lines, false);
  // Half of a line comes through: it does not stay.
  const Ended half = runs.go_on({.at = 1, .action = "short", .only = "metrics.jsonl", .calls = "write"});
  check_end(half, 0, {});
  runs.check_recovery(half, false);
}

TEST_CASE("metrics that cannot be read are not rewritten") {
  if (!can_inject()) return;
  FaultyRuns runs;
  const Ended ended = runs.go_on(
      {.at = 1, .action = std::to_string(EIO), .repeat = 0, .only = "metrics.jsonl", .calls = "pread,pread64"});
  check_end(ended, 1, {"metrics.jsonl", "Input/output error"});
  CHECK(read_file(runs.run() / "metrics.jsonl") == read_file(runs.place / "template/metrics.jsonl"));
}

TEST_CASE("what runs that died left behind goes") {
  const Workplace place;
  const fs::path run = place / "run";
  for (const char* folder : {"checkpoints/.tmp-step-00000001", "export"}) fs::create_directories(run / folder);
  for (const char* file : {"experiment.yaml.partial", "checkpoints/.tmp-step-00000001/rank-00000.bin.partial",
                           "export/model.safetensors.partial", "export/.export.partial"})
    write_file(run / file, "half");
  check_end(run_train(place, {"job.folder=" + run.string()}), 0, {});
  for (const auto& item : fs::recursive_directory_iterator(run)) {
    const std::string name = item.path().filename().string();
    INFO(item.path());
    CHECK_FALSE((name.starts_with(".tmp-") || name.ends_with(".partial")));
  }
}

TEST_CASE("a program without standard streams does not write into its own files") {
  const Workplace place;
  const std::string run = (place / "run").string();
  const auto command = train_command(place, {"job.folder=" + run});
  std::string line = "exec";
  for (const auto& part : command) line += " '" + part + "'";
  const Ended ended = Program(place / "log", {"sh", "-c", line + " <&- >&- 2>&-"}).wait();
  CHECK(ended.code == 0);
  check_end(run_train(place, {"job.folder=" + run}), 0, {"this run is finished"});
  CHECK(losses_of(run).size() == 12);
}
