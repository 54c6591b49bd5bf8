// Model files as transformers reads and writes them: configurations of both spellings, RoPE parameters, and exports.
#include <catch2/catch.hpp>

#include "golden_model.h"
#include "model/rope.h"
#include "tests/io/temporary.h"
#include "tests/train/small_models.h"

namespace longhaul {
namespace {

using namespace testing;
using nlohmann::json;

}  // namespace

TEST_CASE("every spelling of a configuration gives the same spec", "[golden]") {
  std::size_t files = 0;
  for (const auto& name : golden_names()) {
    const LoadedModel model = load_model(golden_root() / name);
    for (const auto& entry : std::filesystem::directory_iterator(golden_root() / name)) {
      const std::string file = entry.path().filename().string();
      if (!file.starts_with("config.v4")) continue;
      INFO(name << "/" << file);
      const LoadedModel other = load_model(entry.path());
      CHECK(other.family == model.family);
      CHECK(spec_text(other.spec) == spec_text(model.spec));
      CHECK(other.spec == model.spec);
      ++files;
    }
  }
  // gpt2, ministral3 and the two that are no models of transformers are spelt in one way.
  CHECK(files >= golden_names().size() - 4);
}

TEST_CASE("RoPE frequencies are those of transformers", "[golden]") {
  const json cases = read_json(golden_root() / "rope_cases.json")["cases"];
  REQUIRE(!cases.empty());
  for (const json& one : cases) {
    INFO(one["name"].get<std::string>());
    json config = {{"model_type", "llama"},
                   {"vocab_size", 32},
                   {"hidden_size", one["head_dim"]},
                   {"intermediate_size", 32},
                   {"num_hidden_layers", 1},
                   {"num_attention_heads", 1},
                   {"head_dim", one["head_dim"]},
                   {"max_position_embeddings", one["max_position_embeddings"]},
                   {"rope_parameters", one["rope_parameters"]}};
    const TransformerSpec spec = parse_model(config.dump(), "case").spec;
    const RopeSpec rope = spec.layer(0).rope;
    const RopeFrequencies frequencies =
        rope_frequencies(at_length(spec, one.value("sequence_length", std::int64_t{1})).layer(0).rope);
    const auto expected = one["inv_freq"].get<std::vector<double>>();
    REQUIRE(frequencies.inverse.size() == expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i)
      CHECK(std::abs(frequencies.inverse[i] - expected[i]) <= tolerance::float64 * expected[i]);
    CHECK(std::abs(frequencies.attention_factor - one["attention_scaling"].get<double>()) <= tolerance::float64);

    // As transformers 4 spelt it.
    json scaling = one["rope_parameters"];
    config["rope_theta"] = scaling["rope_theta"];
    scaling.erase("rope_theta");
    config.erase("rope_parameters");
    if (scaling["rope_type"] != "default") config["rope_scaling"] = scaling;
    CHECK(parse_model(config.dump(), "case").spec.layer(0).rope == rope);
  }
}

TEST_CASE("an export holds the tensors and the configuration that were loaded", "[golden]") {
  for (const auto& name : golden_names()) {
    INFO(name);
    const Golden golden(name);
    const LoadedModel& model = golden.model;
    CompileRequest request;
    request.scratch = cpu_scratch_bytes();
    request.spec = model.spec;
    request.options = options_for(model.spec, DType::float64, 3);
    request.mesh = Mesh({{"dp", 2}, {"ring", 1}, {"ulysses", 1}});
    request.batch = 2;
    request.sequence = 8;
    request.kinds = step_kinds(1, false);
    const CompiledModel programs = compile_model(request);
    const longhaul_test::TemporaryFolder folder;
    const std::string target = folder / "export";
    const ParameterSource source = golden.source();
    run_threads(2, [&](Communicator& world) {
      CpuTarget cpu;
      Session session(world, cpu, request, programs);
      session.set_parameters(source);
      const ExportedModel exported = export_model(
          session, model.spec, target, {.family = model.family, .source_config = model.config_text, .dtype = {}});
      if (exported.family != model.family) fail("exported as {}", exported.family);
      return 0;
    });
    const SafetensorsReader before((golden.folder / "model.safetensors").string()), after(target);
    CHECK(before.tensors().size() == after.tensors().size());
    for (const auto& [tensor_name, tensor] : before.tensors()) {
      INFO(tensor_name);
      const SafetensorsTensor* other = after.find(tensor_name);
      REQUIRE(other);
      CHECK(other->dtype == tensor.dtype);
      CHECK(other->shape == tensor.shape);
      REQUIRE(other->bytes == tensor.bytes);
      std::string ours(static_cast<std::size_t>(tensor.bytes), '\0'), theirs = ours;
      before.read(tensor, 0, ours.data(), tensor.bytes);
      after.read(*other, 0, theirs.data(), tensor.bytes);
      CHECK(theirs == ours);
    }
    const LoadedModel exported = load_model(target);
    CHECK(exported.family == model.family);
    CHECK(spec_text(exported.spec) == spec_text(model.spec));
    CHECK(exported.spec == model.spec);
    const json source_config = json::parse(model.config_text), config = json::parse(exported.config_text);
    for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"})
      if (source_config.contains(key)) CHECK(config[key] == source_config[key]);
    CHECK(config["architectures"] == source_config["architectures"]);
  }
}

}  // namespace longhaul
