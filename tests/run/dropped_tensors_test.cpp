// Tensors of weight files that are no parameters must be what they are taken for.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>

#include "../io/temporary.h"
#include "base/error.h"
#include "io/safetensors.h"
#include "model/huggingface.h"
#include "run/weights.h"

namespace longhaul {
namespace {

using Catch::Contains;
using nlohmann::json;

struct Stored {
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::vector<float> values;  // bytes when dtype is U8
};
using Tensors = std::map<std::string, Stored>;

json llama() {
  return {{"model_type", "llama"},
          {"vocab_size", 5},
          {"hidden_size", 8},
          {"intermediate_size", 12},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 2},
          {"num_key_value_heads", 2},
          {"rope_theta", 10000.0},
          {"max_position_embeddings", 32},
          {"hidden_act", "silu"},
          {"tie_word_embeddings", true}};
}
json gpt2() {
  return {{"model_type", "gpt2"}, {"vocab_size", 5}, {"n_embd", 8}, {"n_layer", 1}, {"n_head", 2}, {"n_positions", 6}};
}

// "" when the weights are taken; else why not.
std::string read_with(const json& config, const std::function<void(Tensors&)>& add) {
  const LoadedModel model = parse_model(config.dump(), "config.json");
  Tensors tensors;
  float next = 0;
  for (const WeightMapping& mapping : weight_mappings(model.spec, model.family)) {
    Stored& tensor = tensors[mapping.tensor];
    tensor = {"F32", mapping.tensor_shape, {}};
    std::int64_t count = 1;
    for (const std::int64_t size : mapping.tensor_shape) count *= size;
    for (std::int64_t i = 0; i < count; ++i) tensor.values.push_back(next += 0.25F);
  }
  add(tensors);
  const longhaul_test::TemporaryFolder folder;
  const std::string path = folder / "model.safetensors";
  std::vector<SafetensorsDeclaration> declarations;
  for (const auto& [name, tensor] : tensors) declarations.push_back({name, tensor.dtype, tensor.shape});
  SafetensorsWriter writer(path, declarations);
  for (const auto& [name, tensor] : tensors) {
    if (tensor.dtype == "U8") {
      const std::vector<std::uint8_t> bytes(tensor.values.begin(), tensor.values.end());
      writer.write(name, 0, bytes.data(), static_cast<std::int64_t>(bytes.size()));
    } else if (tensor.dtype == "BF16") {
      const std::vector<bfloat16> numbers(tensor.values.begin(), tensor.values.end());
      writer.write(name, 0, numbers.data(), static_cast<std::int64_t>(numbers.size()) * 2);
    } else {
      writer.write(name, 0, tensor.values.data(), static_cast<std::int64_t>(tensor.values.size()) * 4);
    }
  }
  writer.finish();
  try {
    weights_source(path, model.spec, model.family);
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

std::vector<float> frequencies(double theta) {
  return {1, static_cast<float>(1 / std::sqrt(theta))};
}

}  // namespace

TEST_CASE("rotary frequencies in a weight file must be the configuration's, or those before scaling") {
  const std::string name = "model.layers.1.self_attn.rotary_emb.inv_freq";
  const auto with = [&](const json& config, const std::string& dtype, std::vector<float> values) {
    return read_with(config, [&](Tensors& all) {
      all[name] = {dtype, {static_cast<std::int64_t>(values.size())}, values};
    });
  };
  CHECK(with(llama(), "F32", frequencies(10000)).empty());
  CHECK(with(llama(), "BF16", frequencies(10000)).empty());
  CHECK_THAT(with(llama(), "F32", frequencies(500000)),
             Contains(name) && Contains("0.00141421") && Contains("0.01") && Contains("rope_theta 10000"));
  CHECK_THAT(with(llama(), "F32", {1, 0.01F, 0.001F}), Contains("3 rotary frequencies") && Contains("makes 2"));
  json scaled = llama();
  scaled["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 4.0}};
  CHECK(with(scaled, "F32", frequencies(10000)).empty());
  CHECK(with(scaled, "F32", {0.25F, 0.0025F}).empty());
  CHECK_THAT(with(scaled, "F32", {0.5F, 0.005F}), Contains("another RoPE"));
}

TEST_CASE("masks and masked scores in a weight file must be causal ones") {
  const auto with = [&](const std::string& name, const Stored& tensor) {
    return read_with(gpt2(), [&](Tensors& all) { all[name] = tensor; });
  };
  std::vector<float> mask(36);
  for (std::size_t i = 0; i < mask.size(); ++i) mask[i] = i % 6 <= i / 6;
  CHECK(with("h.0.attn.bias", {"U8", {1, 1, 6, 6}, mask}).empty());
  CHECK(with("h.0.attn.bias", {"F32", {1, 1, 6, 6}, mask}).empty());
  mask[5] = 1;
  CHECK_THAT(with("h.0.attn.bias", {"U8", {1, 1, 6, 6}, mask}), Contains("causal mask") && Contains("[0, 5]"));
  CHECK_THAT(with("h.0.attn.bias", {"U8", {6, 5}, std::vector<float>(30)}), Contains("square"));
  CHECK(with("h.0.attn.masked_bias", {"F32", {}, {-10000}}).empty());
  CHECK_THAT(with("h.0.attn.masked_bias", {"F32", {}, {0}}), Contains("masked keys") && Contains("it is 0"));
}

TEST_CASE("the head of a model whose head is its embedding must equal it") {
  const auto with = [&](float change) {
    return read_with(llama(), [&](Tensors& all) {
      all["lm_head.weight"] = all.at("model.embed_tokens.weight");
      all.at("lm_head.weight").values.back() += change;
    });
  };
  CHECK(with(0).empty());
  CHECK_THAT(with(1), Contains("lm_head.weight") && Contains("not equal") && Contains("tie_word_embeddings"));
}

}  // namespace longhaul
