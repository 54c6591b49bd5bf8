// Mixtures: the same run for any number of ranks, gone on with anywhere, with each source's own loss.
#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "../io/temporary.h"
#include "../train/small_experiment.h"
#include "../train/small_models.h"
#include "base/error.h"
#include "comm/launch.h"
#include "io/checkpoint.h"
#include "run/setup.h"
#include "run/source.h"
#include "train/trainer.h"
#include "verify/verify.h"

using namespace longhaul;
using namespace longhaul::testing;
using Catch::Contains;
using longhaul_test::message_of;
namespace fs = std::filesystem;

namespace {

// Three sources: a text, JSON lines of which prompts are not learned, and ids of llm.c's.
struct Sources {
  SmallExperiment small{small_llama()};
  Sources() {
    std::ofstream lines(small.folder() / "chats.jsonl");
    for (std::uint32_t line = 0; line < 20; ++line) {
      std::string letters;
      for (std::uint32_t i = 0; i < 8 + line % 7; ++i)
        letters += static_cast<char>('a' + philox({i, line, 0, 2}, {5, 8})[0] % 26);
      lines << nlohmann::json{{"prompt", letters}, {"completion", letters + letters}}.dump() << '\n';
    }
    std::vector<std::int32_t> header(256);
    header[0] = 20240520, header[1] = 1, header[2] = 400;
    std::string ids;
    for (std::uint32_t i = 0; i < 400; ++i) {
      const auto id = static_cast<std::uint16_t>(philox({i, 0, 0, 8}, {5, 8})[0] % 257);
      ids.append(reinterpret_cast<const char*>(&id), 2);
    }
    std::ofstream(small.folder() / "code.bin", std::ios::binary)
        << std::string(reinterpret_cast<const char*>(header.data()), 1024) << ids;
  }
  Experiment load(const std::vector<std::string>& more = {}) const {
    const std::string folder = small.folder().string();
    std::vector<std::string> keys = {"data.files=[]",
                                     "data.sources={web: {files: " + folder +
                                         "/text.txt, weight: 5}, chats: {files: " + folder +
                                         "/chats.jsonl, format: jsonl, mask_prompt: true, weight: 2}, code: {" +
                                         "files: " + folder + "/code.bin, format: llmc, weight: 1.5}}",
                                     "training.micro_batch_size=1",
                                     "training.global_batch_size=4",
                                     "training.steps=8",
                                     "lr_scheduler.decay_type=constant",
                                     "job.folder=" + folder + "/run"};
    keys.insert(keys.end(), more.begin(), more.end());
    return small.load(keys);
  }
};

std::vector<nlohmann::json> lines_of(const Experiment& experiment) {
  std::vector<nlohmann::json> lines;
  std::ifstream file(experiment.job.folder / "metrics.jsonl");
  for (std::string line; std::getline(file, line);) {
    lines.push_back(nlohmann::json::parse(line));
    for (const char* key : {"time", "step_seconds", "tokens_per_second", "mfu", "peak_memory_bytes",
                            "process_memory_bytes", "attention_imbalance", "attention_path"})
      lines.back().erase(key);
  }
  return lines;
}

std::vector<nlohmann::json> run(const Experiment& experiment, int ranks) {
  run_threads(ranks, [&](Communicator& world) { return train(world, experiment); });
  return lines_of(experiment);
}

nlohmann::json places(const Experiment& experiment) {
  const auto all = list_checkpoints((experiment.job.folder / "checkpoints").string());
  REQUIRE_FALSE(all.empty());
  return nlohmann::json::parse(Checkpoint(all.front().path).state()).at("sources");
}

void check_close(const std::vector<nlohmann::json>& a, const std::vector<nlohmann::json>& b) {
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    REQUIRE(a[i].size() == b[i].size());
    for (const auto& [key, value] : a[i].items()) {
      INFO(key << " of line " << i);
      CHECK(b[i].at(key).get<double>() == Approx(value.get<double>()).epsilon(1e-10));
    }
  }
}

std::string refused(const Experiment& experiment) {
  fs::remove_all(experiment.job.folder);
  try {
    run_threads(1, [&](Communicator& world) { return train(world, experiment); });
  } catch (const std::exception& error) {
    return error.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("a mixture trains the same on any ranks; the sources' losses are the step's", "[threads]") {
  const Sources sources;
  const Experiment one = sources.load();
  const auto expected = run(one, 1);
  REQUIRE(expected.size() == 8);
  double chats = 0, labels = 0;
  for (const auto& line : expected) {
    double sum = 0, count = 0;
    for (const std::string name : {"web", "chats", "code"}) {
      const double own = line.at("valid_tokens." + name);
      CHECK((own > 0) == line.contains("loss." + name));
      if (own > 0) sum += own * line.at("loss." + name).get<double>();
      count += own;
    }
    CHECK(count == line.at("valid_tokens"));
    CHECK(sum / count == Approx(line.at("loss").get<double>()).epsilon(1e-12));
    chats += line.at("valid_tokens.chats").get<double>();
    labels += count;
  }
  CHECK(chats > 0);
  CHECK(chats < 0.2 * labels);  // of 2 / 8.5 of the samples about two thirds are learned
  const nlohmann::json taken = places(one);
  REQUIRE(taken.size() == 3);
  // 32 samples by 5 : 2 : 1.5.
  CHECK(std::abs(taken[0].at("taken").get<double>() - 32 * 5 / 8.5) < 1);
  CHECK(std::abs(taken[1].at("taken").get<double>() - 32 * 2 / 8.5) < 1);
  CHECK(std::abs(taken[2].at("taken").get<double>() - 32 * 1.5 / 8.5) < 1);

  for (const auto& [split, ranks] :
       {std::pair<std::string, int>{"1", 2}, {"1", 4}, {"{ulysses: 2, ring: 2}", 4}, {"{gather_kv: 2}", 2}}) {
    INFO(split << " on " << ranks);
    fs::remove_all(one.job.folder);
    const Experiment many = sources.load({"parallelism.sequence=" + split, "parallelism.zero_stage=3"});
    check_close(run(many, ranks), expected);
    CHECK(places(many) == taken);
  }
}

TEST_CASE("a mixture goes on where it stopped: the same bits, and the same samples at another world size",
          "[threads]") {
  const Sources sources;
  const Experiment whole = sources.load(), half = sources.load({"training.steps=3"});
  const auto expected = run(whole, 2);
  const nlohmann::json taken = places(whole);
  fs::remove_all(whole.job.folder);
  run(half, 2);
  CHECK(run(whole, 2) == expected);  // bitwise
  CHECK(places(whole) == taken);
  fs::remove_all(whole.job.folder);
  run(half, 4);
  check_close(run(whole, 1), expected);
  CHECK(places(whole) == taken);
  // Packed and shuffled anew in the midst of an epoch: every source's rest.
  fs::remove_all(whole.job.folder);
  run(half, 1);
  run(sources.load({"training.seed=7"}), 1);
  for (const auto& source : places(whole)) CHECK(source.at("taken").get<int>() > 0);
  // Other shares: counted from there.
  fs::remove_all(whole.job.folder);
  run(half, 1);
  const nlohmann::json before = places(half);
  run(sources.load({"data.sources.web.weight=1"}), 1);
  const nlohmann::json after = places(whole);
  CHECK(std::abs(after[0].at("taken").get<double>() - 20 / 4.5) < 1);
  CHECK(after[0].at("cursor").at("position").get<int>() ==
        before[0].at("cursor").at("position").get<int>() + after[0].at("taken").get<int>());
}

TEST_CASE("a mixture is verified against the specification, packed documents too", "[threads]") {
  const Sources sources;
  for (const std::vector<std::string>& keys :
       {std::vector<std::string>{"parallelism.sequence={ring: 2, ulysses: 2}"},
        {"parallelism.sequence={ring: 4}", "data.packing={mode: best_fit}",
         "data.sources.code.files=" + (sources.small.folder() / "text.txt").string(), "data.sources.code.format=text",
         "parallelism.zero_stage=3"}}) {
    VerificationReport report;
    run_threads(4, [&](Communicator& world) {
      const RunSetup setup = prepare_run(sources.load(keys), world.size(), Hosts::one(world.size()));
      VerificationReport mine = verify_run(world, setup, {});
      if (world.rank() == 0) report = std::move(mine);
      return 0;
    });
    INFO(report.text());
    CHECK_FALSE(report.differs);
  }
}

TEST_CASE("mixtures that cannot be are refused", "[threads]") {
  const Sources sources;
  const std::string text = (sources.small.folder() / "text.txt").string();
  CHECK_THAT(message_of([&] { sources.load({"data.files=[" + text + "]"}); }),
             Contains("data.files and data.sources both"));
  for (const char* weight : {"0", "-1", ".nan", "a"})
    CHECK_THAT(message_of([&] { sources.load({std::string("data.sources.web.weight=") + weight}); }),
               Contains("data.sources.web.weight must be a number of at least 1e-06"));
  CHECK_THAT(message_of([&] { sources.load({"data.sources.web.wieght=1"}); }),
             Contains("data.sources.web has no 'wieght' (did you mean weight?)"));
  CHECK_THAT(message_of([&] { sources.load({"data.sources.new.weight=1"}); }),
             Contains("data.sources.new names no files"));
  // 400 ids are 24 samples of 16; of 8.5 parts it has 1.5.
  CHECK_THAT(refused(sources.load({"data.sources.code.epochs=1", "training.steps=40"})),
             Contains("data.sources.code: epochs is 1") && Contains("24 samples of its 24") && Contains("29"));
  CHECK(refused(sources.load({"data.sources.code.epochs=0.25", "training.steps=8"})) == "accepted");
  CHECK_THAT(refused(sources.load({"data.sources.web.files=/nowhere.txt"})),
             Contains("data.sources.web: cannot open /nowhere.txt: No such file"));
  CHECK_THAT(refused(sources.load({"data.packing={mode: documents}"})), Contains("data.sources.code:"));
}
