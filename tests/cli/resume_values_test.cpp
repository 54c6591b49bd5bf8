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
          {"training.seq_len 8 (was 16)", "the rest of epoch 0 is cut from the tokens that were not taken yet",
           "epoch 0: 2616 tokens of it are left, in 326 samples of 8"});
  resumed("training.seq_len=32", {"training.seq_len 32 (was 16)", "2616 tokens of it are left, in 81 samples of 32"});
  // It goes on there when it is started again.
  check_end(run_train(place, in(place, "run", {"training.steps=11", "training.seq_len=32"})), 0,
            {"resuming from step 9", "2616 tokens of it are left, in 81 samples of 32"});
  resumed("training.global_batch_size=2", {"training.global_batch_size 2 (was 4)"});
  resumed("training.seed=5",
          {"training.seed 5 (was 0)", "the order of the data changes here", "cut and shuffled anew"});
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

TEST_CASE("steps, samples and validations without a label are counted and change nothing", "[threads]") {
  const Workplace place;
  // 40 samples of 16 tokens; labels in the first eight only.
  std::string tokens(2 * 641, '\0'), loss(641, '\0');
  for (std::size_t i = 0; i < 641; ++i) tokens[2 * i] = static_cast<char>(i % 101);
  write_file(place / "none.ds", tokens);
  write_file(place / "none.ds.loss", loss);
  for (std::size_t i = 1; i <= 128; ++i) loss[i] = 1;
  write_file(place / "some.ds", tokens);
  write_file(place / "some.ds.loss", loss);
  const auto with = [&](const std::string& files, const std::string& name, std::vector<std::string> more) {
    more.insert(more.end(), {"data.format=datatrove", "data.files=" + (place / files).string(),
                             "data.validation_files=" + (place / "none.ds").string(), "training.global_batch_size=2",
                             "checkpoint.interval=0", "lr_scheduler.decay_type=constant"});
    return run_train(place, in(place, name, more));
  };
  const Ended none = with("none.ds", "none", {"training.steps=3"});
  check_end(none, 0,
            {"training data: 40 of 40 samples have no label", "none has one", "step 2 is skipped: no token of the step",
             "(3 such steps so far)", "no token of the validation is a label", "loss none (no label)"});
  check_end(with("none.ds", "one", {"training.steps=1"}), 0, {});
  CHECK(read_file(place / "none/export/model.safetensors").size() > 1000);
  const auto lines = metrics_of(place / "none");
  for (const auto& [step, line] : lines) {
    CHECK(line.at("loss").is_null());
    CHECK(line.at("grad_norm").is_null());
    CHECK(line.at("skipped") == "no token of the step is a label");
  }
  CHECK(lines.at(3).at("validation_loss").is_null());
  // No weight decay: as after one step, and as at the start.
  const auto tensors = [&](const std::string& name) {
    const std::string bytes = read_file(place / name / "export/model.safetensors");
    return bytes.substr(bytes.find("}}") + 2);
  };
  CHECK(tensors("none") == tensors("one"));

  // Interrupted and resumed, the steps that learn are the same ones with the same numbers.
  check_end(with("some.ds", "whole", {"training.steps=12"}), 0, {"32 of 40 samples have no label"});
  check_end(with("some.ds", "cut", {"training.steps=7"}), 0, {});
  check_end(with("some.ds", "cut", {"training.steps=12", "--ranks", "2"}), 0, {"resuming from step 7"});
  int learned = 0;
  const auto whole = metrics_of(place / "whole"), cut = metrics_of(place / "cut");
  for (const auto& [step, line] : whole) {
    CHECK(line.contains("skipped") == (line.at("valid_tokens") == 0));
    CHECK(line.at("loss").is_null() == cut.at(step).at("loss").is_null());
    if (line.at("loss").is_null()) continue;
    ++learned;
    CHECK(line.at("loss").get<double>() == Approx(cut.at(step).at("loss").get<double>()).epsilon(1e-5));
  }
  CHECK(learned > 1);
  CHECK(learned < 12);
}

TEST_CASE("documents that samples cut are counted, and MFU counts what packed documents compute", "[threads]") {
  const Workplace place;
  std::string lines;
  for (int i = 0; i < 100; ++i) lines += "{\"text\": \"" + std::string(9, static_cast<char>('a' + i % 26)) + "\"}\n";
  write_file(place / "short.jsonl", lines);  // documents of 10 tokens with their end token
  const auto with = [&](const std::string& name, std::vector<std::string> more) {
    more.insert(more.end(), {"data.format=jsonl", "data.files=" + (place / "short.jsonl").string(), "training.steps=2",
                             "training.seq_len=64"});
    return run_train(place, in(place, name, more));
  };
  // 15 samples of 64: their begins are multiples of 10 for samples 0, 5 and 10.
  check_end(with("packed", {"data.packing={mode: documents}"}), 0, {"samples cut 12 documents, at 12 places"});
  const Ended plain = with("plain", {});
  check_end(plain, 0, {});
  CHECK_THAT(plain.output, !Catch::Contains("samples cut"));
}

TEST_CASE("bytes are not fed to a model of words unless that is asked for", "[threads]") {
  const Workplace place;
  int runs = 0;
  const auto with = [&](int vocabulary, std::vector<std::string> more) {
    more.push_back("model.config=" + place.model("other.json", {{"vocab_size", vocabulary}}).string());
    more.push_back("training.steps=1");
    return run_train(place, in(place, "run-" + std::to_string(++runs), more));
  };
  check_end(with(1000, {}), 1,
            {"holds no tokenizer", "vocabulary is 1000", "longhaul tokenize", "data.tokenizer: bytes"});
  check_end(with(1000, {"--ranks", "2", "data.tokenizer=bytes"}), 0, {"training data: 3000 tokens (bytes; documents"});
  check_end(with(200, {}), 1, {"vocabulary is 200", "too many for it"});
  check_end(with(256, {}), 0, {"bytes, by data.tokenizer auto; documents end with no token, by data.eos_token auto"});
  check_end(with(512, {}), 0, {"end with token 256"});
  check_end(with(513, {}), 1, {"vocabulary is 513"});
  // A guess has its line.
  write_file(place / "raw.ds", std::string(400, '\1'));
  write_file(place / "raw2.ds", std::string(400, '\1'));
  check_end(with(1000, {"data.format=datatrove", "data.files=" + (place / "raw*.ds").string()}), 0,
            {"tokens are taken to have 2 bytes, by the vocabulary of 1000", "and 1 more"});
}

TEST_CASE("steps that are computed twice give the run that computes them once", "[threads]") {
  const Workplace place;
  check_end(run_train(place, in(place, "once", {"--ranks", "2"})), 0, {});
  check_end(run_train(place, in(place, "twice", {"--ranks", "2", "checkpoint.verify_steps=2"})), 0, {});
  CHECK(losses_of(place / "once") == losses_of(place / "twice"));
  CHECK(read_file(place / "once/export/model.safetensors") == read_file(place / "twice/export/model.safetensors"));
}
