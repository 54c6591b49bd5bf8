// Runs that go on with other values than they had, and steps that are skipped.
#include <fmt/format.h>

#include <cmath>

#include "program.h"

using namespace longhaul::testing;

namespace {

std::vector<std::string> in(const Workplace& place, const std::string& name, std::vector<std::string> more) {
  more.push_back("job.folder=" + (place / name).string());
  return more;
}

// step -> what metrics.jsonl says.
std::map<std::int64_t, nlohmann::json> metrics_of(const fs::path& run) {
  std::map<std::int64_t, nlohmann::json> lines;
  std::ifstream file(run / "metrics.jsonl");
  for (std::string line; std::getline(file, line);) {
    const auto json = nlohmann::json::parse(line);
    lines[json.at("step")] = json;
  }
  return lines;
}

}  // namespace

TEST_CASE("a run that goes on with other values says in one warning which, and what follows", "[threads]") {
  const Workplace place;
  write_file(place / "other.txt", std::string(1500, 'q'));
  const std::vector<std::string> first = {"training.steps=6", "checkpoint.interval=6"};
  check_end(run_train(place, in(place, "base", first)), 0, {});
  const auto resumed = [&](const std::string& key, const std::vector<std::string>& says) {
    INFO(key);
    fs::remove_all(place / "run");
    fs::copy(place / "base", place / "run", fs::copy_options::recursive);
    const Ended ended = run_train(place, in(place, "run", {"training.steps=9", key}));
    check_end(ended, 0, {"resuming from step 6", "training.steps 9 (was 6)", "the learning rate of the next step is"});
    check_end(ended, 0, says);
    CHECK(count_of(ended.output, "goes on with other values") == 1);
  };
  resumed("data.files=" + (place / "other.txt").string(),
          {"data.files", "other.txt", "the data are others", "from sample 24"});
  resumed("training.seq_len=8",
          {"training.seq_len 8 (was 16)", "384 tokens of epoch 0", "sample 48 of the new length"});
  resumed("training.seq_len=32", {"training.seq_len 32 (was 16)", "sample 12 of the new length"});
  resumed("training.global_batch_size=2", {"training.global_batch_size 2 (was 4)"});
  resumed("training.seed=5", {"training.seed 5 (was 0)", "the order of the data changes here"});
  resumed("optimizer.betas=[0.5, 0.5]", {"optimizer.betas [0.5, 0.5] (was [0.9, 0.95])"});
  resumed("lr_scheduler.warmup_steps=8", {"lr_scheduler.warmup_steps 8 (was 0)"});
  resumed("data.packing={mode: documents}", {"data.packing"});
  resumed("model.init_seed=3", {"parameters come from the checkpoint"});
  // What changes no numbers is no warning.
  fs::remove_all(place / "run");
  check_end(run_train(place, in(place, "run", {"training.steps=1000000", "training.time_limit=0.05"})), 85, {});
  const Ended quiet = run_train(
      place,
      in(place, "run", {"training.steps=1000000", "training.time_limit=0", "metrics.log_freq=3", "--ranks", "2"}));
  check_end(quiet, 85,
            {"changed since the checkpoint: training.time_limit 0 (was 0.05)", "metrics.log_freq 3 (was 10)"});
  CHECK(count_of(quiet.output, "goes on with other values") == 0);
}

TEST_CASE("a finished folder that is asked for another experiment is refused, naming what differs", "[threads]") {
  const Workplace place;
  check_end(run_train(place, in(place, "run", {})), 0, {});
  check_end(run_train(place, in(place, "run", {})), 0, {"this run is finished"});
  check_end(run_train(place, in(place, "run", {"--ranks", "2", "metrics.log_freq=1"})), 0, {"this run is finished"});
  check_end(run_train(place, in(place, "run", {"optimizer.lr=1e-3", "training.seed=2"})), 1,
            {"holds a finished run of another experiment", "optimizer.lr 0.001 (was 0.01)", "training.seed 2 (was 0)",
             "another job.folder"});
  CHECK(losses_of(place / "run").size() == 12);
}

TEST_CASE("bad steps are skipped and counted, and a resumed run skips the same ones", "[threads]") {
  const Workplace place;
  // So small a deviation that after 128 steps every step above the mean is an outlier.
  const std::vector<std::string> common = {"training.max_bad_steps=60",
                                           "training.outlier_sigmas=0.3",
                                           "optimizer.lr=1e-5",
                                           "lr_scheduler.decay_type=constant",
                                           "checkpoint.interval=0",
                                           "--ranks",
                                           "2"};
  const auto with_steps = [&](const std::string& name, int steps) {
    auto more = common;
    more.push_back("training.steps=" + std::to_string(steps));
    return in(place, name, more);
  };
  check_end(run_train(place, with_steps("whole", 200)), 0, {"is skipped: the ", "standard deviations above"});
  check_end(run_train(place, with_steps("cut", 150)), 0, {});
  check_end(run_train(place, with_steps("cut", 200)), 0, {"resuming from step 150"});
  const auto whole = metrics_of(place / "whole"), cut = metrics_of(place / "cut");
  REQUIRE(whole.size() == 200);
  int skipped = 0;
  for (const auto& [step, line] : whole) {
    CHECK(line.at("loss") == cut.at(step).at("loss"));
    CHECK(line.contains("skipped") == cut.at(step).contains("skipped"));
    skipped += line.contains("skipped");
    if (step <= 128) CHECK(!line.contains("skipped"));
  }
  CHECK(skipped > 10);
  CHECK(skipped < 60);
  CHECK(read_file(place / "whole/export/model.safetensors") == read_file(place / "cut/export/model.safetensors"));
}

TEST_CASE("a loss that is not finite ends the run at once, or after max_bad_steps in a row", "[threads]") {
  const Workplace place;
  const std::vector<std::string> diverging = {"optimizer.lr=1e30", "training.steps=40"};
  check_end(run_train(place, in(place, "stop", diverging)), 1, {"the run stops"});
  auto skipping = diverging;
  skipping.emplace_back("training.max_bad_steps=4");
  const Ended ended = run_train(place, in(place, "skip", skipping));
  check_end(ended, 1, {"is skipped: the ", "bad step 4 in a row", "training.max_bad_steps is 4"});
  CHECK(count_of(ended.output, "is skipped: the ") == 4);
}
