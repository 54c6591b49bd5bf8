// Texts and exports while a run is trained: what generation and export make of the checkpoints of those steps.
#include <catch2/catch.hpp>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "../train/small_experiment.h"
#include "../train/small_models.h"
#include "comm/launch.h"
#include "io/safetensors.h"
#include "run/checkpoint_export.h"
#include "run/generator.h"
#include "run/stored_model.h"
#include "train/trainer.h"

using namespace longhaul;
using namespace longhaul::testing;
using Catch::Contains;
namespace fs = std::filesystem;

namespace {

struct Place {
  SmallExperiment small{small_llama()};
  fs::path run = small.folder() / "run";
  Experiment load(std::vector<std::string> more) const {
    more.insert(more.begin(), {"training.steps=6", "checkpoint.interval=2", "checkpoint.keep_latest_k=0",
                               "optimizer.lr=3e-2", "job.folder=" + run.string()});
    return small.load(more);
  }
  std::string train_on(const Experiment& experiment, int ranks) const {
    try {
      run_threads(ranks, [&](Communicator& world) { return train(world, experiment); });
    } catch (const std::exception& error) {
      return error.what();
    }
    return "";
  }
  std::vector<nlohmann::json> samples() const {
    std::vector<nlohmann::json> lines;
    std::ifstream file(run / "samples.jsonl");
    for (std::string line; std::getline(file, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }
};

std::string bytes_of(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

}  // namespace

TEST_CASE("texts while training are those that the checkpoints of their steps make, and come again after a resume",
          "[threads]") {
  const Place place;
  const std::vector<std::string> keys = {"sample.prompts=[abc, 'x y']", "sample.interval=2", "sample.max_tokens=9",
                                         "sample.temperature=0.9",      "sample.top_p=0.95", "sample.seed=3"};
  for (const auto& [ranks, stage] : {std::pair{1, 0}, {2, 3}}) {
    fs::remove_all(place.run);
    std::vector<std::string> these = keys;
    these.push_back("parallelism.zero_stage=" + std::to_string(stage));
    REQUIRE(place.train_on(place.load(these), ranks) == "");
    const auto lines = place.samples();
    REQUIRE(lines.size() == 6);
    for (std::size_t i = 0; i < lines.size(); ++i) {
      const std::int64_t step = 2 + 2 * static_cast<std::int64_t>(i / 2);
      CHECK(lines[i].at("step") == step);
      const StoredModel model = open_stored_model(place.run, step);
      Generator generator(model.spec, 12, DType::float64, 1);
      generator.set_parameters(model.source);
      const std::string prompt = i % 2 ? "x y" : "abc";
      CHECK(lines[i].at("prompt") == prompt);
      const std::vector<std::int32_t> ids(prompt.begin(), prompt.end());
      const auto made = generate(generator, ids, 9, {0.9, 0.95, 3}, {256}, i % 2);
      CHECK(lines[i].at("ids") == nlohmann::json(made));
    }
  }
  // A run that goes on from step 4 has those of later steps again; the earlier ones are kept beside it.
  const auto whole = place.samples();
  fs::remove_all(place.run / "checkpoints/step-00000006");
  fs::remove_all(place.run / "export");
  std::vector<std::string> these = keys;
  these.push_back("parallelism.zero_stage=1");
  REQUIRE(place.train_on(place.load(these), 1) == "");
  CHECK(place.samples().size() == 6);
  CHECK(place.samples()[5].at("prompt") == whole[5].at("prompt"));
  CHECK(bytes_of(place.run / "samples-replaced.jsonl").find("\"step\":6") != std::string::npos);
  // Training learns the same with and without them.
  fs::remove_all(place.run);
  REQUIRE(place.train_on(place.load(keys), 2) == "");
  const std::string with = bytes_of(place.run / "export/model.safetensors");
  fs::remove_all(place.run);
  REQUIRE(place.train_on(place.load({}), 2) == "");
  CHECK(bytes_of(place.run / "export/model.safetensors") == with);
  CHECK_FALSE(fs::exists(place.run / "samples.jsonl"));
}

TEST_CASE("prompts that cannot be read are refused before the first step", "[threads]") {
  const Place place;
  // Token ids, of which nobody says what they mean.
  std::string ids;
  for (int i = 0; i < 2000; ++i) ids += std::string(1, static_cast<char>(i % 251)) + std::string(1, '\0');
  std::ofstream(place.small.folder() / "ids.bin", std::ios::binary) << ids;
  const std::vector<std::string> raw = {"data.files=" + (place.small.folder() / "ids.bin").string(), "data.format=raw",
                                        "data.token_bytes=2", "sample.prompts=[abc]"};
  CHECK_THAT(place.train_on(place.load(raw), 2), Contains("sample.prompts needs a tokenizer"));
  std::vector<std::string> bytes = raw;
  bytes.push_back("data.tokenizer=bytes");
  CHECK(place.train_on(place.load(bytes), 2) == "");
  CHECK(place.samples().size() == 1);
  fs::remove_all(place.run);
  CHECK_THAT(place.train_on(place.load({"sample.prompts=[abc]", "device.memory=0.0005"}), 1),
             Contains("device.memory"));
  const auto refusal = [&](const std::string& key) -> std::string {
    try {
      place.load({key});
    } catch (const std::exception& error) {
      return error.what();
    }
    return "";
  };
  CHECK_THAT(refusal("sample.interval=2"), Contains("sample.interval is 2, but sample.prompts is []"));
  CHECK_THAT(refusal("sample.top_p=0.5"), Contains("sample.top_p is 0.5, but sample.temperature is 0"));
}

TEST_CASE("exports while training are those of the checkpoints of their steps, in dtype and pieces as asked",
          "[threads]") {
  const Place place;
  REQUIRE(place.train_on(place.load({"export.interval=2", "export.dtype=bfloat16", "export.max_shard_size=4096",
                                     "training.dtype=float32"}),
                         2) == "");
  const fs::path other = place.small.folder() / "other";
  for (const std::int64_t step : {2, 4, 6}) {
    const fs::path folder =
        step == 6 ? place.run / "export" : place.run / ("exports/step-0000000" + std::to_string(step));
    INFO(folder.string());
    CHECK(fs::exists(folder / "model.safetensors.index.json"));
    fs::remove_all(other);
    export_checkpoint({place.run, other, step, DType::bfloat16, 4096});
    int files = 0;
    for (const auto& item : fs::directory_iterator(folder)) {
      CHECK(bytes_of(item.path()) == bytes_of(other / item.path().filename()));
      ++files;
    }
    CHECK(files > 3);
  }
  CHECK_FALSE(fs::exists(place.run / "exports/step-00000006"));  // the last one is export/
  fs::remove_all(place.run);
  REQUIRE(place.train_on(place.load({"export.interval=1", "export.keep_latest_k=2"}), 1) == "");
  std::vector<std::string> names;
  for (const auto& item : fs::directory_iterator(place.run / "exports")) names.push_back(item.path().filename());
  std::sort(names.begin(), names.end());
  CHECK(names == std::vector<std::string>{"step-00000004", "step-00000005"});
  // A run goes on when one cannot be written.
  fs::remove_all(place.run);
  fs::create_directories(place.run);
  std::ofstream(place.run / "exports") << "in the way";
  CHECK(place.train_on(place.load({"export.interval=2"}), 2) == "");
  CHECK(fs::exists(place.run / "export/config.json"));
}
