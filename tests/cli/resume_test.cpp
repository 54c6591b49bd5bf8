// Killed, damaged and moved runs: what a resumed run continues from, and that nothing shows in its losses.
#include <algorithm>
#include <random>

#include "program.h"

using namespace longhaul::testing;

namespace {

void flip_byte(const fs::path& file, std::size_t at) {
  std::string bytes = read_file(file);
  REQUIRE(bytes.size() > at);
  bytes[at] = static_cast<char>(bytes[at] ^ 1);
  write_file(file, bytes);
}

std::vector<std::string> unfinished_of(const fs::path& run) {
  auto names = checkpoints_of(run);
  std::erase_if(names, [](const auto& name) { return !name.starts_with(".tmp-step-"); });
  return names;
}

std::string newest_of(const fs::path& run) {
  const auto names = checkpoints_of(run);
  return names.empty() || !names.back().starts_with("step-") ? "" : names.back();
}

template <typename Condition>
bool wait_until(Program& program, Condition&& condition) {
  while (!condition()) {
    if (!program.running()) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
  return true;
}

}  // namespace

TEST_CASE("a killed run resumes with bitwise the losses of an uninterrupted one", "[threads]") {
  const Workplace place;
  for (const std::string stage : {"1", "3"}) {
    std::vector<std::string> common = {"--ranks", "2", "parallelism.zero_stage=" + stage, "training.steps=40",
                                       "checkpoint.interval=2"};
    const auto with_folder = [&](const std::string& name) {
      auto arguments = common;
      arguments.push_back("job.folder=" + (place / name).string());
      return arguments;
    };
    const auto whole = with_folder("whole" + stage), cut = with_folder("cut" + stage);
    const fs::path run = place / ("cut" + stage);
    check_end(run_train(place, whole), 0, {"step     40/40"});
    const auto expected = losses_of(place / ("whole" + stage));
    REQUIRE(expected.size() == 40);

    std::mt19937 random(std::stoul(stage));
    int kills = 0, during_write = 0;
    for (int attempt = 0; attempt < 8; ++attempt) {
      const bool at_write = attempt % 2 == 0;
      // What an earlier kill left must not pass for this start's; the other starts find it and must cope.
      if (at_write)
        for (const auto& name : unfinished_of(run)) fs::remove_all(run / "checkpoints" / name);
      const std::string newest = newest_of(run);
      const std::size_t lines = lines_of(run / "metrics.jsonl");
      Program program(place / "log", train_command(place, cut));
      if (at_write) {
        // One checkpoint further, so that every such kill makes progress, and in the middle of the next.
        wait_until(program, [&] { return newest_of(run) != newest && !unfinished_of(run).empty(); });
      } else {
        // At any moment after the first step of this start.
        wait_until(program, [&] {
          const std::size_t now = lines_of(run / "metrics.jsonl");
          return now > lines || (now > 0 && now < lines);
        });
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 6000));
      }
      const bool killed = program.running();
      program.kill();
      kills += killed;
      during_write += at_write && killed && !unfinished_of(run).empty();
    }
    INFO(kills << " kills, " << during_write << " of them while a checkpoint was written");
    CHECK(kills >= 3);
    CHECK(during_write >= 1);
    // A torn line, as a crash of the machine leaves it.
    std::ofstream(run / "metrics.jsonl", std::ios::app) << "{\"step\": 4";
    check_end(run_train(place, cut), 0, {"resuming from step"});
    CHECK(losses_of(run) == expected);
    CHECK(checkpoints_of(run) == std::vector<std::string>{"step-00000038", "step-00000040"});
    CHECK(read_file(run / "export/model.safetensors") ==
          read_file(place / ("whole" + stage) / "export/model.safetensors"));
  }
}

TEST_CASE("a resumed run multiplies matrices with the libraries of its checkpoint", "[threads]") {
  const Workplace place;
  // Sums long enough for the libraries to cut them differently.
  const std::string wide =
      place
          .model("wide.json",
                 {{"num_hidden_layers", 1}, {"hidden_size", 1024}, {"intermediate_size", 1024}, {"head_dim", 8}})
          .string();
  const auto start = [&](const std::string& name, const std::string& steps, std::vector<std::string> more) {
    more.insert(more.end(),
                {"--ranks", "2", "model.config=" + wide, "lr_scheduler.decay_type=constant", "training.steps=" + steps,
                 "checkpoint.interval=3", "job.folder=" + (place / name).string()});
    return run_train(place, more);
  };
  check_end(start("whole", "6", {"training.matmul=openblas"}), 0, {"by openblas"});
  const auto expected = losses_of(place / "whole");
  REQUIRE(expected.size() == 6);
  CHECK(read_file(place / "whole/matmul.json").find("openblas") != std::string::npos);
  // Whatever an automatic choice would be now: first as the default, then by measurement.
  for (const std::string deterministic : {"true", "false"}) {
    const std::string name = "cut-" + deterministic;
    check_end(start(name, "3", {"training.matmul=openblas"}), 0, {});
    check_end(start(name, "6", {"training.deterministic=" + deterministic}), 0,
              {"resuming from step 3", "by openblas"});
    CHECK(losses_of(place / name) == expected);
    CHECK(read_file(place / name / "matmul.json") == read_file(place / "whole/matmul.json"));
  }
  // Asked for another library, it takes it and says what that means; nor is the test blind to the difference.
  check_end(start("other", "3", {"training.matmul=openblas"}), 0, {});
  check_end(start("other", "6", {"training.matmul=onednn"}), 0, {"had another library in the checkpoint"});
  CHECK(losses_of(place / "other") != expected);
  check_end(start("refused", "3", {"training.matmul=openblas", "training.dtype=bfloat16"}), 1,
            {"training.matmul is openblas", "bfloat16"});
}

TEST_CASE("a run goes on at another world size, split and ZeRO stage", "[threads]") {
  const Workplace place;
  const std::string folder = "job.folder=" + (place / "run").string();
  const auto options = [&](const std::string& steps, const std::string& target) {
    return std::vector<std::string>{"training.dtype=float64", "lr_scheduler.decay_type=constant",
                                    "training.steps=" + steps, "checkpoint.interval=5", target};
  };
  const auto start = [&](std::vector<std::string> arguments, const std::vector<std::string>& parallel) {
    arguments.insert(arguments.end(), parallel.begin(), parallel.end());
    return run_train(place, arguments);
  };
  const std::vector<std::string> first = {"--ranks", "2", "parallelism.sequence=2", "parallelism.zero_stage=1"};
  check_end(start(options("25", "job.folder=" + (place / "whole").string()), first), 0, {});
  const auto expected = losses_of(place / "whole");
  REQUIRE(expected.size() == 25);
  check_end(start(options("5", folder), first), 0, {});
  fs::copy(place / "run", place / "origin", fs::copy_options::recursive);
  for (const std::vector<std::string>& parallel :
       {std::vector<std::string>{"--ranks", "1"},
        {"--ranks", "4", "parallelism.sequence=2", "parallelism.data=2", "parallelism.zero_stage=3",
         "parallelism.shard_group=2"},
        {"--ranks", "4", "parallelism.sequence=4", "parallelism.zero_stage=2"},
        {"--ranks", "2", "parallelism.data=2", "parallelism.zero_stage=0", "training.micro_batch_size=1"}}) {
    fs::remove_all(place / "run");
    fs::copy(place / "origin", place / "run", fs::copy_options::recursive);
    check_end(start(options("25", folder), parallel), 0, {"resuming from step 5"});
    const auto losses = losses_of(place / "run");
    REQUIRE(losses.size() == 25);
    for (const auto& [step, loss] : losses) CHECK(std::abs(loss - expected.at(step)) <= 1e-10 * std::abs(loss));
  }
}

TEST_CASE("finished runs, used folders and lines past the checkpoint") {
  const Workplace place;
  const std::string folder = "job.folder=" + (place / "run").string();
  check_end(run_train(place, {folder, "training.steps=8"}), 0, {});
  CHECK(checkpoints_of(place / "run") == std::vector<std::string>{"step-00000006", "step-00000008"});
  const auto changed = fs::last_write_time(place / "run/metrics.jsonl");
  check_end(run_train(place, {folder, "training.steps=8"}), 0, {"this run is finished", "training.steps"});
  CHECK(fs::last_write_time(place / "run/metrics.jsonl") == changed);
  check_end(run_train(place, {folder, "training.steps=8", "--ranks", "2", "checkpoint.resume=off"}), 1,
            {folder.substr(11), "checkpoint.resume"});
  // The last checkpoint gone: its lines go too, and come again.
  const auto losses = losses_of(place / "run");
  fs::remove_all(place / "run/checkpoints/step-00000008");
  check_end(run_train(place, {folder, "training.steps=8"}), 0, {"resuming from step 6"});
  CHECK(losses_of(place / "run") == losses);
  // Finished, but killed before the export: only that is made up for.
  const std::string exported = read_file(place / "run/export/model.safetensors");
  fs::remove_all(place / "run/export");
  check_end(run_train(place, {folder, "training.steps=8"}), 0, {"exported the model"});
  CHECK(read_file(place / "run/export/model.safetensors") == exported);
  // Prolonged and killed before the new export: the old one does not pass for it.
  fs::copy(place / "run/export", place / "old", fs::copy_options::recursive);
  check_end(run_train(place, {folder, "training.steps=11"}), 0, {"resuming from step 8", "exported the model"});
  fs::remove_all(place / "run/export");
  fs::rename(place / "old", place / "run/export");
  check_end(run_train(place, {folder, "training.steps=11"}), 0, {"exported the model"});
  check_end(run_train(place, {folder, "training.steps=11"}), 0, {"this run is finished"});
  // keep_latest_k: 0 keeps all.
  check_end(run_train(place, {"job.folder=" + (place / "all").string(), "checkpoint.keep_latest_k=0"}), 0, {});
  CHECK(checkpoints_of(place / "all").size() == 4);
}

TEST_CASE("damaged checkpoints are skipped, with the reason") {
  const Workplace place;
  const fs::path run = place / "run", newest = run / "checkpoints/step-00000012";
  const std::vector<std::string> arguments = {"--ranks", "2", "job.folder=" + run.string()};
  check_end(run_train(place, arguments), 0, {});
  const auto losses = losses_of(run);
  flip_byte(newest / "rank-00001.bin", 100);
  check_end(run_train(place, arguments), 0, {"skipped", "step-00000012", "checksum", "resuming from step 9"});
  CHECK(losses_of(run) == losses);
  fs::resize_file(newest / "manifest.json", fs::file_size(newest / "manifest.json") / 2);
  check_end(run_train(place, arguments), 0, {"skipped", "manifest.json", "resuming from step 9"});
  fs::resize_file(newest / "rank-00000.bin", 10);
  check_end(run_train(place, arguments), 0, {"skipped", "rank-00000.bin has 10 bytes", "resuming from step 9"});
  fs::remove(newest / "rank-00000.bin");
  check_end(run_train(place, arguments), 0, {"skipped", "rank-00000.bin", "resuming from step 9"});
  fs::rename(newest, run / "checkpoints/step-00000013");  // by hand: not what its manifest says
  check_end(run_train(place, arguments), 0, {"skipped", "step-00000013", "of step 12", "resuming from step 9"});
  fs::remove_all(run / "checkpoints/step-00000013");
  CHECK(losses_of(run) == losses);

  flip_byte(newest / "manifest.json", 300);
  fs::remove(run / "checkpoints/step-00000009/manifest.json");
  check_end(run_train(place, arguments), 1, {"none of them is whole", "step-00000012", "checkpoint.resume=restart"});
  auto restart = arguments;
  restart.push_back("checkpoint.resume=restart");
  check_end(run_train(place, restart), 0, {"step-00000012", "step-00000009", "no whole checkpoint", "step 0"});
  CHECK(losses_of(run) == losses);
  CHECK(losses.size() == 12);
}

TEST_CASE("a checkpoint of another model is refused; other data goes on") {
  const Workplace place;
  const std::string folder = "job.folder=" + (place / "run").string();
  check_end(run_train(place, {folder, "training.steps=3"}), 0, {});
  const auto refused = [&](const std::string& model, const std::vector<std::string>& says) {
    check_end(run_train(place, {folder, "training.steps=6", "model.config=" + model}), 1, says);
  };
  refused(place.model("wide.json", {{"intermediate_size", 32}}).string(),
          {"step-00000003", "layers.0.mlp", "[24, 16]", "[32, 16]"});
  refused(place.model("deep.json", {{"num_hidden_layers", 3}}).string(),
          {"step-00000003", "'layers.2.", "[16]", "holds no tensor"});
  refused(place.model("flat.json", {{"num_hidden_layers", 1}}).string(),
          {"step-00000003", "layers.1.", "16]", "none of this run's model"});
  // Equal shapes, other computation.
  refused(place.model("turn.json", {{"rope_theta", 500.0}}).string(),
          {"step-00000003", "theta", "10000", "500", "another model"});
  refused(place.model("epsilon.json", {{"rms_norm_eps", 1e-3}}).string(),
          {"step-00000003", "epsilon", "another model"});
  check_end(run_train(place, {folder, "training.steps=6", "training.dtype=float64"}), 1, {"float32", "float64"});
  CHECK(losses_of(place / "run").size() == 3);

  // Fewer samples than the cursor has passed: the next epoch begins.
  write_file(place / "less.txt", read_file(place / "text.txt").substr(0, 16 * 5 + 1));
  check_end(run_train(place, {folder, "training.steps=6", "data.files=[" + (place / "less.txt").string() + "]"}), 0,
            {"next epoch"});
  CHECK(losses_of(place / "run").size() == 6);
}
