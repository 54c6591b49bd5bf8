// checkpoint.asynchronous: the files of a save that training waited for, and what faults and death do to one it did
// not.
#include "injected.h"

using namespace longhaul::testing;

TEST_CASE("asynchronous saves write the same files and change no number", "[threads]") {
  const Workplace place;
  for (const std::string ranks : {"1", "2", "4"}) {
    const auto start = [&](const std::string& name, const std::string& asynchronous) {
      const Ended ended =
          run_train(place, {"--ranks", ranks, "parallelism.zero_stage=" + std::string(ranks == "4" ? "3" : "1"),
                            "checkpoint.interval=1", "checkpoint.keep_latest_k=0",
                            "checkpoint.asynchronous=" + asynchronous, "job.folder=" + (place / name).string()});
      check_end(ended, 0, {});
      return ended.output;
    };
    CHECK_THAT(start("later" + ranks, "true"), Catch::Contains("bytes more a rank for asynchronous checkpoints"));
    start("now" + ranks, "false");
    const fs::path now = place / ("now" + ranks), later = place / ("later" + ranks);
    CHECK(losses_of(now) == losses_of(later));
    CHECK(checkpoints_of(now).size() == 12);
    CHECK(checkpoints_of(now) == checkpoints_of(later));
    for (const auto& item : fs::recursive_directory_iterator(now / "checkpoints"))
      if (item.path().extension() == ".bin")
        CHECK(read_file(item.path()) == read_file(later / fs::relative(item.path(), now)));
    CHECK(read_file(now / "export/model.safetensors") == read_file(later / "export/model.safetensors"));
    // What was saved goes on as what was.
    check_end(run_train(place, {"--ranks", ranks, "training.steps=13", "job.folder=" + later.string()}), 0,
              {"resuming from step 12"});
  }
}

TEST_CASE("asynchronous saves count against device.memory and wait before a run fails") {
  const Workplace place;
  const std::string run = "job.folder=" + (place / "run").string();
  check_end(run_train(place, {run, "checkpoint.asynchronous=true", "device.memory=0.0004"}), 1,
            {"checkpoint.asynchronous needs a copy of", "device.memory"});
  // A loss that is not finite, one step after a save began: the save is whole.
  check_end(run_train(place, {run, "checkpoint.asynchronous=true", "training.steps=200", "optimizer.lr=1e30"}), 1,
            {"the run stops", "last checkpoint: "});
  for (const auto& name : checkpoints_of(place / "run")) CHECK(name.starts_with("step-"));
}

TEST_CASE("faults and death during asynchronous saves lose nothing") {
  if (!can_inject()) return;
  FaultyRuns runs({"checkpoint.asynchronous=true"});
  runs.check_recovery(runs.go_on({}), false);
  const long calls = static_cast<long>(runs.calls().size());
  for (const auto& action : {std::string("kill"), std::string("killed_after"), std::to_string(EIO)})
    for (long i = 1; i <= 4; ++i) {
      const long at = calls * i / 5;
      INFO("call " << at << " of " << calls << ": " << action);
      runs.check_recovery(runs.go_on({.at = at, .action = action}), action.starts_with("kill"));
    }
  const Ended once =
      runs.go_on({.at = 1, .action = std::to_string(ENOSPC), .only = "checkpoints/", .calls = "fallocate"});
  check_end(once, 0, {"the checkpoint of step 3 cannot be written", "tries again"});
  CHECK(checkpoints_of(runs.run()) == std::vector<std::string>{"step-00000002", "step-00000004"});
}
