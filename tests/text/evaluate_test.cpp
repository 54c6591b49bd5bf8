// longhaul eval: what a run said of its validation sets, from its checkpoint and its export, on any number of ranks,
// and without a trace.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "../train/small_experiment.h"
#include "../train/small_models.h"
#include "comm/launch.h"
#include "train/evaluate.h"
#include "train/trainer.h"

using namespace longhaul;
using namespace longhaul::testing;
using Catch::Contains;
namespace fs = std::filesystem;

namespace {

void write_words(const fs::path& file, std::uint32_t salt) {
  std::ofstream text(file);
  for (std::uint32_t i = 0; i < 700; ++i) text << static_cast<char>('a' + philox({i, salt, 0, 5}, {5, 8})[0] % 20);
}

struct Place {
  SmallExperiment small{small_llama()};
  fs::path run = small.folder() / "run";
  Place() {
    write_words(small.folder() / "one.txt", 1);
    write_words(small.folder() / "two.txt", 2);
    write_words(small.folder() / "held.txt", 3);
  }
  Experiment load(std::vector<std::string> more = {}) const {
    const std::string folder = small.folder().string();
    more.insert(more.begin(),
                {"data.files=[]", "data.sources.one.files=" + folder + "/one.txt",
                 "data.sources.two.files=" + folder + "/two.txt", "data.sources.two.weight=3",
                 "data.validation_files=" + folder + "/held.txt", "validation.sets.more.files=" + folder + "/text.txt",
                 "training.steps=6", "checkpoint.interval=3", "job.folder=" + run.string()});
    return small.load(more);
  }
  EvaluationReport eval(const Experiment& experiment, const EvaluationOptions& options, int ranks = 1) const {
    EvaluationReport report;
    run_threads(ranks, [&](Communicator& world) {
      EvaluationReport one = evaluate(world, experiment, options);
      if (world.rank() == 0) report = one;
      return 0;
    });
    return report;
  }
  std::string refusal(const Experiment& experiment, const EvaluationOptions& options) const {
    try {
      eval(experiment, options, 2);
    } catch (const std::exception& error) {
      return error.what();
    }
    return "";
  }
  std::map<std::string, std::string> files() const {
    std::map<std::string, std::string> all;
    for (const auto& item : fs::recursive_directory_iterator(small.folder())) {
      std::ifstream file(item.path(), std::ios::binary);
      all[item.path().string()] = item.is_directory() ? "" : std::string(std::istreambuf_iterator<char>(file), {});
    }
    return all;
  }
};

std::map<std::int64_t, nlohmann::json> metrics(const fs::path& run) {
  std::map<std::int64_t, nlohmann::json> lines;
  std::ifstream file(run / "metrics.jsonl");
  for (std::string line; std::getline(file, line);) {
    const auto json = nlohmann::json::parse(line);
    lines[json.at("step")] = json;
  }
  return lines;
}

}  // namespace

TEST_CASE("evaluation gives what a run said of its sets, from checkpoint and export, on any ranks, without a trace",
          "[threads]") {
  const Place place;
  const Experiment experiment = place.load({"validation.freq=3"});
  run_threads(1, [&](Communicator& world) { return train(world, experiment); });
  const auto lines = metrics(place.run);
  const auto before = place.files();

  const auto check = [&](const EvaluationReport& report, std::int64_t step, double tolerance) {
    REQUIRE(report.sets.size() == 2);
    CHECK(report.sets[0].key == "data.validation_files");
    CHECK(report.sets[1].key == "validation.sets.more");
    for (std::size_t i = 0; i < 2; ++i) {
      const std::string name = i == 0 ? "" : ".more";
      CHECK(*report.sets[i].result.loss ==
            Approx(lines.at(step).at("validation_loss" + name).get<double>()).epsilon(tolerance));
      const auto& buckets = lines.at(step).at("validation_loss_by_position" + name);
      const auto& found = report.sets[i].result.by_position;
      REQUIRE(found.size() == buckets.size());
      double labels = 0;
      for (std::size_t k = 0; k < found.size(); ++k) {
        CHECK(found[k].sum / found[k].labels == Approx(buckets[k].at(1).get<double>()).epsilon(tolerance));
        labels += found[k].labels;
      }
      CHECK(labels == report.sets[i].result.labels);
    }
  };
  for (const std::int64_t step : {3, 6}) {
    const EvaluationReport report = place.eval(experiment, {.from = place.run, .step = step});
    CHECK(report.step == step);
    check(report, step, 1e-12);
  }
  check(place.eval(experiment, {.from = place.run}), 6, 1e-12);
  check(place.eval(experiment, {.from = place.run / "export"}), 6, 1e-12);
  check(place.eval(place.load({"model.weights=" + (place.run / "export").string(),
                               "model.config=" + (place.run / "export").string()}),
                   {}),
        6, 1e-12);
  for (const char* split : {"{ring: 2}", "2", "{gather_kv: 2}"})
    check(place.eval(place.load({std::string("parallelism.sequence=") + split, "parallelism.zero_stage=3"}),
                     {.from = place.run}, 4),
          6, 1e-10);
  CHECK(place.files() == before);

  // Sources on their own, whole, without their weights; together they are what a plain list of the files gives.
  const EvaluationReport all = place.eval(experiment, {.from = place.run, .training = true}, 2);
  REQUIRE(all.sets.size() == 4);
  CHECK(all.sets[0].key == "data.sources.one");
  CHECK(all.sets[1].key == "data.sources.two");
  for (int i = 0; i < 2; ++i) {
    const EvaluationReport alone =
        place.eval(place.small.load({"data.files=" + (place.small.folder() / (i ? "two.txt" : "one.txt")).string(),
                                     "job.folder=" + place.run.string()}),
                   {.from = place.run});
    REQUIRE(alone.sets.size() == 1);
    CHECK(alone.sets[0].key == "data.files");
    CHECK(*alone.sets[0].result.loss == Approx(*all.sets[static_cast<std::size_t>(i)].result.loss).epsilon(1e-10));
  }

  const auto json = nlohmann::json::parse(all.json());
  CHECK(json.at("step") == 6);
  CHECK(json.at("sets").at(2).at("perplexity").get<double>() ==
        Approx(std::exp(lines.at(6).at("validation_loss").get<double>())));
  CHECK_THAT(all.text(), Contains("validation.sets.more") && Contains("tokens of context 8 to 15"));
  CHECK(place.files() == before);
}

TEST_CASE("a run in bfloat16 validates, tells its sources apart and is evaluated", "[threads]") {
  const Place place;
  std::map<std::string, nlohmann::json> first, last;
  for (const std::string dtype : {"float32", "bfloat16"}) {
    fs::remove_all(place.run);
    const Experiment experiment =
        place.load({"training.dtype=" + dtype, "validation.at_start=true", "training.seq_len=64"});
    run_threads(2, [&](Communicator& world) { return train(world, experiment); });
    const auto lines = metrics(place.run);
    first[dtype] = lines.at(0);
    last[dtype] = lines.at(6);
    for (const char* source : {"loss.one", "loss.two"})
      CHECK(std::any_of(lines.begin(), lines.end(),
                        [&](const auto& line) { return line.second.value(source, 0.0) > 1; }));
    const EvaluationReport report = place.eval(experiment, {.from = place.run}, 2);
    CHECK(*report.sets[0].result.loss == Approx(lines.at(6).at("validation_loss").get<double>()).epsilon(1e-6));
  }
  for (const auto* lines : {&first, &last})
    for (const std::string key : {"validation_loss", "validation_loss.more"}) {
      const auto &wide = lines->at("float32"), &narrow = lines->at("bfloat16");
      CHECK(narrow.at(key).get<double>() == Approx(wide.at(key).get<double>()).epsilon(0.02));
      const auto &buckets = narrow.at("validation_loss_by_position" + key.substr(15)),
                 &exact = wide.at("validation_loss_by_position" + key.substr(15));
      REQUIRE(buckets.size() == exact.size());
      for (std::size_t i = 0; i < exact.size(); ++i) {
        CHECK(buckets[i].at(1).get<double>() == Approx(exact[i].at(1).get<double>()).epsilon(0.03));
        CHECK(buckets[i].at(2) == exact[i].at(2));
      }
    }
}

TEST_CASE("evaluation needs no memory for gradients and moments") {
  const Place place;
  const Experiment experiment = place.load({"training.dtype=bfloat16"});
  const RunSetup trains = prepare_run(experiment, 1, Hosts::one(1)),
                 evaluates = prepare_run(experiment, 1, Hosts::one(1), Purpose::evaluate);
  const CompiledModel one = compile_model(evaluates.request), other = compile_model(trains.request);
  const std::int64_t parameters = parameter_count(evaluates.model.spec);
  // The compute copies, in bfloat16, and a few bytes of every buffer's alignment; masters, moments and gradients
  // besides.
  CHECK(one.named.bytes < 2 * parameters + 16384);
  CHECK(other.named.bytes > 14 * parameters);
}

TEST_CASE("evaluation is refused without weights, data, a checkpoint or its model", "[threads]") {
  const Place place;
  const Experiment experiment = place.load();
  CHECK_THAT(place.refusal(experiment, {}), Contains("model.weights is not set") && Contains("--from"));
  CHECK_THAT(place.refusal(experiment, {.step = 3}), Contains("--step 3 is of a run's checkpoint"));
  CHECK_THAT(place.refusal(experiment, {.from = place.small.folder(), .step = 3}),
             Contains("has no folder checkpoints"));
  run_threads(1, [&](Communicator& world) { return train(world, experiment); });
  CHECK_THAT(place.refusal(experiment, {.from = place.run, .step = 4}),
             Contains("has no checkpoint of step 4; there are those of steps 3, 6"));
  CHECK_THAT(place.refusal(place.small.load({"data.files=[]"}), {.from = place.run}),
             Contains("there is nothing to evaluate on"));
  // The run's model is gone, and the experiment names another.
  fs::rename(place.small.folder() / "model.json", place.small.folder() / "other.json");
  TransformerSpec other = small_llama();
  other.vocabulary = 258;
  std::ofstream(place.small.folder() / "third.json") << spec_text(other);
  CHECK_THAT(place.refusal(place.load({"model.config=" + (place.small.folder() / "third.json").string()}),
                           {.from = place.run}),
             Contains("is of another model") && Contains("vocabulary"));
  CHECK(place.eval(place.load({"model.config=" + (place.small.folder() / "other.json").string()}), {.from = place.run})
            .sets.size() == 2);
}
