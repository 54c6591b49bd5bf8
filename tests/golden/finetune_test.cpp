// configs/finetune.yaml on a small Hugging Face folder: packed chats on four ranks, ring x ulysses with ZeRO-3, give
// the losses that transformers and PyTorch's AdamW give of the same chats one by one (tests/golden/finetune).
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "../io/temporary.h"
#include "base/environment.h"
#include "base/json.h"
#include "comm/launch.h"
#include "config/experiment.h"
#include "run/setup.h"
#include "run/source.h"
#include "run/text_tokens.h"
#include "train/trainer.h"

using namespace longhaul;
namespace fs = std::filesystem;

TEST_CASE("fine-tuning on packed chats gives the losses and gradient norms of transformers", "[golden][libraries]") {
  const longhaul_test::TemporaryFolder folder;
  const fs::path golden = fs::path(environment("LONGHAUL_TEST_DATA")) / "golden";
  const fs::path model = folder / "model";
  fs::copy(golden / "finetune/model", model);
  fs::copy_file(golden / "tokenizers/qwen2/tokenizer.json", model / "tokenizer.json");
  const nlohmann::json expected = read_json(golden / "finetune/losses.json");
  std::vector<std::string> keys = {"model.config=" + model.string(),
                                   "model.weights=" + model.string(),
                                   "data.files=" + (golden / "finetune/chats.jsonl").string(),
                                   "job.folder=" + (folder / "run"),
                                   "training.seq_len=512",  // no chat is longer
                                   "training.dtype=float64",
                                   "training.threads=1",
                                   "training.steps=" + std::to_string(expected.at("steps").size()),
                                   "lr_scheduler.decay_type=constant"};
  const std::string config = environment("LONGHAUL_SOURCE") + "/configs/finetune.yaml";
  // All samples in every step: the golden knows nothing of their order.
  std::int64_t samples = 0;
  run_threads(1, [&](Communicator& world) {
    auto alone = keys;
    alone.insert(alone.end(), {"parallelism.sequence=1", "training.global_batch_size=1"});
    RunSetup setup = prepare_run(load_experiment(config, alone), 1, Hosts::one(1));
    tokenize_texts(world, setup);
    const DataSource source = open_training(world, setup);
    samples = source.sampler->samples();
    CHECK(source.dataset->size() == expected.at("tokens"));
    REQUIRE(source.packed);
    CHECK(source.packed->counts().documents == expected.at("documents"));
    CHECK(source.packed->counts().longest == expected.at("longest"));
    CHECK(source.packed->counts().longer == 0);
    return 0;
  });
  REQUIRE(samples > 10);
  keys.push_back("training.global_batch_size=" + std::to_string(samples));
  const Experiment experiment = load_experiment(config, keys);
  CHECK(experiment.parallelism.sequence == SequenceSplit{.ulysses = 2, .ring = 2});
  CHECK(experiment.parallelism.zero_stage == 3);
  CHECK(experiment.data.packing == PackingMode::best_fit);
  run_threads(4, [&](Communicator& world) { return train(world, experiment); });

  std::ifstream lines(experiment.job.folder / "metrics.jsonl");
  std::size_t step = 0;
  for (std::string line; std::getline(lines, line); ++step) {
    INFO("step " << step + 1);
    REQUIRE(step < expected.at("steps").size());
    const auto& theirs = expected["steps"][step];
    const nlohmann::json ours = nlohmann::json::parse(line);
    CHECK(ours.at("valid_tokens") == expected.at("labels"));
    CHECK(ours.at("loss").get<double>() == Approx(theirs.at("loss").get<double>()).epsilon(1e-7));
    CHECK(ours.at("grad_norm").get<double>() == Approx(theirs.at("grad_norm").get<double>()).epsilon(1e-7));
  }
  CHECK(step == expected.at("steps").size());
}
