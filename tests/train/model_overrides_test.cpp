// model.rope, model.max_position_embeddings, model.vocab_size: what a Hugging Face file with the same in it says, in
// runs and in exports.
#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "comm/launch.h"
#include "io/safetensors.h"
#include "model/huggingface.h"
#include "model/initialise.h"
#include "run/model_overrides.h"
#include "run/setup.h"
#include "run/source.h"
#include "small_experiment.h"
#include "small_models.h"
#include "train/trainer.h"

namespace longhaul {
namespace {

using namespace testing;
using Catch::Contains;
using nlohmann::json;
namespace fs = std::filesystem;

json llama_config() {
  return {{"model_type", "llama"},
          {"hidden_size", 16},
          {"intermediate_size", 24},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 2},
          {"num_key_value_heads", 1},
          {"vocab_size", 257},
          {"max_position_embeddings", 32},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 5000.0},
          {"tie_word_embeddings", false},
          {"hidden_act", "silu"}};
}

struct Place {
  SmallExperiment small{small_llama()};
  Place() { write(llama_config()); }
  void write(const json& config) const { std::ofstream(small.folder() / "config.json") << config.dump(); }
  Experiment load(std::vector<std::string> more) const {
    more.insert(more.begin(), "model.config=" + (small.folder() / "config.json").string());
    return small.load(more);
  }
  LoadedModel model(const std::vector<std::string>& more) const { return experiment_model(load(more)); }
  std::string refusal(const std::vector<std::string>& more) const {
    try {
      model(more);
    } catch (const std::exception& error) {
      return error.what();
    }
    return "";
  }
};

struct Case {
  std::string keys;       // model.rope
  std::string positions;  // model.max_position_embeddings
  json scaling;           // rope_scaling of the file that says the same
  std::int64_t max_positions;
  double theta = 5000;
};

const std::vector<Case> cases = {
    {"{type: yarn, factor: 4}",
     "auto",
     {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32}},
     128},
    {"{type: yarn}", "64", {{"rope_type", "yarn"}, {"factor", 2.0}, {"original_max_position_embeddings", 32}}, 64},
    {"{type: yarn, factor: 4, original_max_positions: 16, beta_fast: 16, beta_slow: 2, truncate: false, "
     "attention_factor: 1.5}",
     "96",
     {{"rope_type", "yarn"},
      {"factor", 4.0},
      {"original_max_position_embeddings", 16},
      {"beta_fast", 16.0},
      {"beta_slow", 2.0},
      {"truncate", false},
      {"attention_factor", 1.5}},
     96},
    {"{type: linear, factor: 2.5}", "auto", {{"rope_type", "linear"}, {"factor", 2.5}}, 80},
    {"{type: llama3, factor: 8, low_frequency_factor: 1, high_frequency_factor: 4}",
     "auto",
     {{"rope_type", "llama3"},
      {"factor", 8.0},
      {"low_freq_factor", 1.0},
      {"high_freq_factor", 4.0},
      {"original_max_position_embeddings", 32}},
     256},
    {"{type: dynamic, factor: 2}", "auto", {{"rope_type", "dynamic"}, {"factor", 2.0}}, 32},
    {"{type: longrope, short_factors: [1, 1, 1.5, 2], long_factors: [1, 2, 4, 8]}",
     "128",
     {{"rope_type", "longrope"},
      {"short_factor", {1.0, 1.0, 1.5, 2.0}},
      {"long_factor", {1.0, 2.0, 4.0, 8.0}},
      {"original_max_position_embeddings", 32},
      {"factor", 4.0}},
     128},
    {"{type: default, theta: 500000}", "64", nullptr, 64, 500000},
};

}  // namespace

TEST_CASE("an override of RoPE is the file that says the same, in the run, its checkpoint and its export",
          "[threads][numbers]") {
  const Place place;
  for (const Case& one : cases) {
    INFO(one.keys);
    const std::vector<std::string> keys = {"model.rope=" + one.keys, "model.max_position_embeddings=" + one.positions};
    json file = llama_config();
    file["rope_scaling"] = one.scaling;
    file["rope_theta"] = one.theta;
    const bool counts = one.keys.find("dynamic") != std::string::npos || one.keys.find("default") != std::string::npos;
    file["max_position_embeddings"] = counts ? one.max_positions : 32;
    TransformerSpec wanted = parse_model(file.dump(), "the file that says the same").spec;
    wanted.max_positions = one.max_positions;
    const LoadedModel model = place.model(keys);
    CHECK(spec_text(model.spec) == spec_text(wanted));
    CHECK(spec_text(model.stored) == spec_text(parse_model(llama_config().dump(), "as it is").spec));

    const fs::path run = place.small.folder() / "run";
    fs::remove_all(run);
    std::vector<std::string> trained = keys;
    trained.insert(trained.end(), {"job.folder=" + run.string(), "training.steps=1"});
    const Experiment experiment = place.load(trained);
    // What is printed is read back as the same.
    CHECK(parse_experiment(to_yaml(experiment), run / "again.yaml").model == experiment.model);
    run_threads(1, [&](Communicator& world) { return train(world, experiment); });
    const LoadedModel exported = load_model(run / "export");
    CHECK(exported.family == "llama");
    CHECK(spec_text(exported.spec) == spec_text(wanted));
  }
}

TEST_CASE("layers with a RoPE of their own keep it, those that share the global one change") {
  const Place place;
  TransformerSpec spec = small_llama();
  spec.vocabulary = 257;
  spec.max_positions = 64;
  LayerGroup local = spec.layers[0], global = spec.layers[0], same = spec.layers[0];
  local.repeat = global.repeat = same.repeat = 1;
  local.layer.attention.window = 8;
  local.layer.rope.theta = 100;
  same.layer.attention.window = 8;
  spec.layers = {local, global, same};
  std::ofstream(place.small.folder() / "config.json") << spec_text(spec);
  const LoadedModel model = place.model({"model.rope={type: linear, factor: 2}"});
  CHECK(model.spec.layer(0).rope == local.layer.rope);
  for (const int i : {1, 2}) {
    CHECK(model.spec.layer(i).rope.kind == RopeKind::linear);
    CHECK(model.spec.layer(i).rope.theta == global.layer.rope.theta);
  }
  CHECK(model.spec.max_positions == 128);
}

TEST_CASE("overrides that a model cannot have are refused by name") {
  const Place place;
  CHECK_THAT(place.refusal({"model.rope={factor: 2}"}), Contains("model.rope is {factor: 2} without a type"));
  CHECK_THAT(place.refusal({"model.rope={type: yarm}"}), Contains("model.rope.type must be one of default, linear"));
  CHECK_THAT(place.refusal({"model.rope={type: yarn, factr: 2}"}), Contains("did you mean factor?"));
  CHECK_THAT(place.refusal({"model.rope={type: yarn, factor: -1}"}),
             Contains("model.rope.factor must be a number above 0; it is -1"));
  CHECK_THAT(place.refusal({"model.rope={type: yarn, beta_fast: 0}"}),
             Contains("model.rope.beta_fast must be a number above 0; it is 0"));
  CHECK_THAT(place.refusal({"model.rope={type: yarn, truncate: 1}"}), Contains("must be true or false"));
  CHECK_THAT(place.refusal({"model.rope={type: longrope, short_factors: [], long_factors: [1]}"}),
             Contains("model.rope.short_factors must be a list of numbers above 0"));
  CHECK_THAT(place.refusal({"model.rope=4"}), Contains("model.rope must be a mapping of type"));
  CHECK_THAT(place.refusal({"model.rope={type: linear}"}), Contains("model.rope") && Contains("factor is missing"));
  CHECK_THAT(place.refusal({"model.rope={type: linear, factor: 2, beta_fast: 3}"}),
             Contains("unknown field layers[0].rope.beta_fast"));
  CHECK_THAT(place.refusal({"model.rope={type: longrope, short_factors: [1], long_factors: [1]}"}),
             Contains("short_factors has 1 numbers; it must have rope.rotary_dim / 2, 4"));
  CHECK_THAT(place.refusal({"model.vocab_size=0"}), Contains("model.vocab_size must be an integer from 1"));
  TransformerSpec gpt2 = small_gpt2();
  gpt2.vocabulary = 257;
  std::ofstream(place.small.folder() / "config.json") << spec_text(gpt2);
  CHECK_THAT(place.refusal({"model.rope={type: linear, factor: 2}"}), Contains("no layer of") && Contains("has RoPE"));
  CHECK_THAT(place.refusal({"model.max_position_embeddings=4096"}), Contains("learned positions: leave it auto"));
  // One name of it on the command line.
  place.write(llama_config());
  CHECK(place.model({"model.rope={type: yarn, factor: 2}", "model.rope.factor=3"}).spec.layer(0).rope.factor == 3);
}

TEST_CASE("a vocabulary of another size: new rows begin as the mean, others as they were", "[threads]") {
  const Place place;
  const fs::path first = place.small.folder() / "first";
  const Experiment begin = place.load({"job.folder=" + first.string(), "training.steps=1"});
  run_threads(1, [&](Communicator& world) { return train(world, begin); });
  const std::string folder = (first / "export").string();
  for (const std::int64_t words : {260, 200}) {
    const Experiment experiment =
        place.load({"model.config=" + folder, "model.weights=" + folder, "model.vocab_size=" + std::to_string(words)});
    const RunSetup setup = prepare_run(experiment, 1, Hosts::one(1));
    CHECK(setup.model.spec.vocabulary == words);
    const RunSetup before =
        prepare_run(place.load({"model.config=" + folder, "model.weights=" + folder}), 1, Hosts::one(1));
    const ParameterSource resized = first_parameters(setup), plain = first_parameters(before);
    for (const char* name : {"embedding.tokens", "head.weight"}) {
      const std::int64_t row = 16;
      std::vector<double> old(static_cast<std::size_t>(257 * row)), now(static_cast<std::size_t>(words * row));
      plain(name, 0, 257 * row, DType::float64, old.data());
      // In uneven pieces, as ranks ask.
      for (std::int64_t at = 0; at < words * row; at += 77)
        resized(name, at, std::min(words * row, at + 77), DType::float64, now.data() + at);
      for (std::int64_t i = 0; i < words * row; ++i) {
        if (i < 257 * row) {
          REQUIRE(now[static_cast<std::size_t>(i)] == old[static_cast<std::size_t>(i)]);
          continue;
        }
        double mean = 0;
        for (std::int64_t k = 0; k < 257; ++k) mean += old[static_cast<std::size_t>(k * row + i % row)];
        REQUIRE(now[static_cast<std::size_t>(i)] == Approx(mean / 257).epsilon(1e-13));
      }
    }
  }
  const fs::path run = place.small.folder() / "run";
  const Experiment grown = place.load({"model.config=" + folder, "model.weights=" + folder, "model.vocab_size=260",
                                       "job.folder=" + run.string(), "training.steps=1"});
  run_threads(2, [&](Communicator& world) { return train(world, grown); });
  CHECK(load_model(run / "export").spec.vocabulary == 260);
  const SafetensorsReader weights((run / "export").string());
  CHECK(weights.find("lm_head.weight")->shape == std::vector<std::int64_t>{260, 16});
}

}  // namespace longhaul
