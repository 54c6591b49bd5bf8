#include "model/huggingface.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include <fmt/format.h>

#include "base/error.h"
#include "model/parameters.h"

using namespace longhaul;
using Catch::Matchers::Contains;
using nlohmann::json;

namespace {

/// A small config.json as transformers 5 saves it.
json config_of(const std::string& family) {
  if (family == "gpt2")
    return {
        {"model_type", "gpt2"}, {"vocab_size", 64},  {"n_positions", 32},          {"n_embd", 32},
        {"n_layer", 2},         {"n_head", 4},       {"n_inner", nullptr},         {"activation_function", "gelu_new"},
        {"resid_pdrop", 0.0},   {"embd_pdrop", 0.0}, {"layer_norm_epsilon", 1e-5}, {"attn_pdrop", 0.0}};
  json config = {{"model_type", family},
                 {"vocab_size", 64},
                 {"hidden_size", 32},
                 {"intermediate_size", 48},
                 {"num_hidden_layers", 4},
                 {"num_attention_heads", 4},
                 {"num_key_value_heads", 2},
                 {"max_position_embeddings", 128},
                 {"rms_norm_eps", 1e-5},
                 {"hidden_act", "silu"},
                 {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 500000.0}}}};
  if (family == "mistral") config["sliding_window"] = 7;
  if (family == "ministral3") {
    config["rope_parameters"] = {{"type", "yarn"}, {"factor", 4.0}, {"rope_theta", 1e6}};
    config["rope_parameters"]["original_max_position_embeddings"] = 32;
    config["rope_parameters"]["llama_4_scaling_beta"] = 0.1;
  }
  if (family == "gpt_neox") config["num_key_value_heads"] = 4;
  if (family == "qwen3") config["head_dim"] = 16;
  return config;
}

LoadedModel load(const json& config) {
  return parse_model(config.dump(), "config.json");
}
std::string message(const json& config) {
  try {
    load(config);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}
std::string exported_family(const TransformerSpec& spec, const std::string& preferred = "") {
  return export_config(spec, preferred, DType::float32).family;
}

const std::vector<std::string> hub_families = {
    "gpt2",    "llama",      "mistral",     "qwen2",   "qwen3", "cohere",   "gemma",     "gemma2",
    "glm",     "glm4",       "gemma3_text", "granite", "olmo2", "internlm", "internlm2", "gpt_neox",
    "minicpm", "ministral3", "orion",       "phi",     "phi3",  "smollm3",  "stablelm",  "starcoder2"};

}  // namespace

TEST_CASE("the supported families are ours and those of the tests") {
  std::vector<std::string> names = hub_families;
  std::sort(names.begin(), names.end());
  names.insert(names.begin(), "longhaul");
  CHECK(supported_families() == names);
}

TEST_CASE("Llama: grouped queries, biases, tied head, both spellings of RoPE") {
  json config = config_of("llama");
  const TransformerSpec spec = load(config).spec;
  REQUIRE(spec.layers.size() == 1);
  CHECK(spec.layers[0].repeat == 4);
  const LayerSpec& layer = spec.layer(0);
  CHECK(layer.attention.head_dim == 8);
  CHECK(layer.attention.kv_heads == 2);
  CHECK(layer.attention.scale == 1 / std::sqrt(8.0));
  CHECK_FALSE(layer.attention.q_bias);
  CHECK(layer.rope.kind == RopeKind::plain);
  CHECK(layer.rope.theta == 500000);
  CHECK(layer.rope.rotary_dim == 8);
  CHECK(layer.norm == NormSpec{NormKind::rms, 1e-5});
  CHECK(layer.mlp == MlpSpec{true, Activation::silu, 48, false});
  CHECK_FALSE(spec.tied_head);
  CHECK_FALSE(spec.learned_positions);

  config["attention_bias"] = config["mlp_bias"] = config["tie_word_embeddings"] = true;
  config["num_key_value_heads"] = nullptr;
  config["head_dim"] = 16;
  const TransformerSpec rich = load(config).spec;
  CHECK(rich.layer(0).attention.o_bias);
  CHECK(rich.layer(0).attention.k_bias);
  CHECK(rich.layer(0).mlp.bias);
  CHECK(rich.tied_head);
  CHECK(rich.layer(0).attention.kv_heads == 4);
  CHECK(rich.layer(0).attention.head_dim == 16);

  const json llama3 = {
      {"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 32}};
  json four = config, five = config;
  four.erase("rope_parameters");
  four["rope_theta"] = 1234.5;
  four["rope_scaling"] = llama3;
  four["rope_scaling"]["type"] = "llama3";
  five["rope_parameters"] = llama3;
  five["rope_parameters"]["rope_type"] = "llama3";
  five["rope_parameters"]["rope_theta"] = 1234.5;
  CHECK(load(four).spec == load(five).spec);
  CHECK(load(four).spec.layer(0).rope.kind == RopeKind::llama3);
  CHECK(load(four).spec.layer(0).rope.original_max_positions == 32);
  four["rope_scaling"] = nullptr;
  CHECK(load(four).spec.layer(0).rope.kind == RopeKind::plain);
  CHECK(load(four).spec.layer(0).rope.theta == 1234.5);
  four["rope_scaling"] = {{"type", "linear"}, {"factor", 2.0}};
  CHECK(load(four).spec.layer(0).rope.factor == 2);
}

TEST_CASE("yarn takes its attention factor from what the file gives") {
  json config = config_of("llama");
  json& rope = config["rope_parameters"];
  rope = {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32}};
  CHECK(load(config).spec.layer(0).rope.attention_factor == Approx(0.1 * std::log(4.0) + 1));
  CHECK(load(config).spec.layer(0).rope.theta == 10000);
  CHECK(load(config).spec.layer(0).rope.beta_fast == 32);
  rope["mscale"] = rope["mscale_all_dim"] = 1.0;
  CHECK(load(config).spec.layer(0).rope.attention_factor == 1);
  rope["attention_factor"] = 0.7;
  rope["truncate"] = false;
  rope["beta_fast"] = 16;
  CHECK(load(config).spec.layer(0).rope.attention_factor == 0.7);
  CHECK_FALSE(load(config).spec.layer(0).rope.truncate);
  CHECK(load(config).spec.layer(0).rope.beta_fast == 16);
  rope.erase("factor");
  CHECK(load(config).spec.layer(0).rope.factor == 4);  // 128 / 32
}

TEST_CASE("Mistral: one window for all layers; null is none, a missing key the default") {
  json config = config_of("mistral");
  CHECK(load(config).spec.layer(3).attention.window == 7);
  config["sliding_window"] = nullptr;
  CHECK(load(config).spec.layer(0).attention.window == 0);
  config.erase("sliding_window");
  CHECK(load(config).spec.layer(0).attention.window == 4096);
  config.erase("num_key_value_heads");
  config["num_attention_heads"] = 16;
  CHECK(load(config).spec.layer(0).attention.kv_heads == 8);
}

TEST_CASE("Qwen2: biases on q, k, v only; windows by layer_types or max_window_layers") {
  json config = config_of("qwen2");
  const AttentionSpec attention = load(config).spec.layer(0).attention;
  CHECK((attention.q_bias && attention.k_bias && attention.v_bias));
  CHECK_FALSE(attention.o_bias);
  config["sliding_window"] = 9;
  config["max_window_layers"] = 3;
  CHECK(load(config).spec.layer(3).attention.window == 0);  // use_sliding_window is false
  config["use_sliding_window"] = true;
  TransformerSpec spec = load(config).spec;
  CHECK(spec.layers.size() == 2);
  CHECK(spec.layer(2).attention.window == 0);
  CHECK(spec.layer(3).attention.window == 9);
  config["layer_types"] = {"sliding_attention", "full_attention", "full_attention", "sliding_attention"};
  spec = load(config).spec;
  CHECK(spec.layers.size() == 3);
  CHECK(spec.layer(0).attention.window == 9);
  CHECK(spec.layer(1).attention.window == 0);
  config["layer_types"][1] = "chunked_attention";
  CHECK_THAT(message(config), Contains("layer_types[1]") && Contains("sliding_attention"));
  config["layer_types"] = {"full_attention"};
  CHECK_THAT(message(config), Contains("each of 4 layers"));
}

TEST_CASE("Qwen3: QK-norm with the model's epsilon and a head size of its own") {
  json config = config_of("qwen3");
  config.erase("head_dim");
  const AttentionSpec attention = load(config).spec.layer(0).attention;
  CHECK(attention.head_dim == 128);
  CHECK(attention.qk_norm);
  CHECK(attention.qk_norm_epsilon == 1e-5);
  CHECK_FALSE(attention.q_bias);
}

TEST_CASE("GPT-2: layer norm, learned positions, plain MLP, biases, tied head") {
  json config = config_of("gpt2");
  const TransformerSpec spec = load(config).spec;
  const LayerSpec& layer = spec.layer(1);
  CHECK(spec.learned_positions);
  CHECK(spec.tied_head);
  CHECK(spec.max_positions == 32);
  CHECK(layer.rope.kind == RopeKind::none);
  CHECK(layer.norm == NormSpec{NormKind::layer, 1e-5});
  CHECK(spec.final_norm == layer.norm);
  CHECK(layer.mlp == MlpSpec{false, Activation::gelu_tanh, 128, true});
  CHECK((layer.attention.q_bias && layer.attention.o_bias));
  CHECK(layer.attention.heads == layer.attention.kv_heads);
  config["scale_attn_by_inverse_layer_idx"] = true;
  CHECK(load(config).spec.layer(1).attention.scale == layer.attention.scale / 2);
  CHECK(exported_family(load(config).spec) == "gpt2");
  config["scale_attn_weights"] = false;
  CHECK(load(config).spec.layer(0).attention.scale == 1);
  CHECK(exported_family(load(config).spec) == "gpt2");
}

TEST_CASE("what is ignored is noted, what is unsupported refused with what is supported") {
  json config = config_of("gpt2");
  REQUIRE(load(config).notes.size() == 1);
  CHECK_THAT(load(config).notes[0], Contains("at the gpt2 family's defaults") && Contains("scale_attn_weights true"));
  config["scale_attn_weights"] = config["tie_word_embeddings"] = true;
  config["n_inner"] = 128;
  config["activation_function"] = "gelu_new";
  config["initializer_range"] = 0.02;
  for (const std::string& note : load(config).notes) FAIL_CHECK(note);
  config["resid_pdrop"] = 0.1;
  config["attn_pdrop"] = 0.2;
  REQUIRE(load(config).notes.size() == 1);
  CHECK_THAT(load(config).notes[0], Contains("resid_pdrop 0.1, attn_pdrop 0.2") && Contains("without dropout"));
  config["my_key"] = 3;
  CHECK(load(config).notes.size() == 2);
  config.erase("my_key");
  config["n_inner"] = nullptr;
  REQUIRE(load(config).notes.size() == 2);
  CHECK_THAT(load(config).notes[1], Contains("defaults: n_inner 128 (from null)"));
  config = config_of("llama");
  config["eos_token_id"] = {1, 2};
  config["pretraining_tp"] = 1;
  config["torch_dtype"] = "bfloat16";
  config["initializer_range"] = 0.02;
  for (const std::string& note : load(config).notes) FAIL_CHECK(note);
  config.erase("hidden_size");
  config.erase("num_hidden_layers");
  REQUIRE(load(config).notes.size() == 1);
  CHECK_THAT(load(config).notes[0], Contains("at the llama family's defaults: hidden_size 4096, num_hidden_layers 32"));

  CHECK_THAT(message({{"model_type", "mamba"}}),
             Contains("\"mamba\"") && Contains("recurrent") && Contains("qwen2, qwen3"));
  CHECK_THAT(message({{"model_type", "new_thing"}}), Contains("\"new_thing\"") && Contains("qwen2, qwen3"));
  CHECK_THAT(message({{"vocab_size", 3}}), Contains("model_type is missing") && Contains("longhaul"));
  CHECK_THAT(message(json::array()), Contains("must be an object"));
  const auto changed = [](const char* family, const char* key, const json& value) {
    json object = config_of(family);
    object[key] = value;
    return message(object);
  };
  CHECK_THAT(changed("llama", "hidden_act", "mish"), Contains("\"mish\"") && Contains("gelu_pytorch_tanh"));
  CHECK_THAT(changed("llama", "rope_scaling", {{"rope_type", "ntk"}}),
             Contains("ntk") && Contains("default, linear, llama3, yarn, dynamic, longrope"));
  CHECK_THAT(changed("llama", "rope_scaling", {{"rope_type", "default"}, {"mrope_section", {1, 2}}}),
             Contains("mrope_section") && Contains("remove it if it changes nothing"));
  CHECK_THAT(changed("llama", "rope_scaling", {{"rope_type", "llama3"}, {"factor", 8.0}}),
             Contains("low_freq_factor is missing"));
  // Factors that no model can mean.
  const auto scaled = [&](json table) { return changed("llama", "rope_scaling", std::move(table)); };
  for (const char* type : {"linear", "dynamic", "yarn", "llama3"})
    for (const double factor : {0.0, -2.0})
      CHECK_THAT(scaled({{"rope_type", type}, {"factor", factor}}),
                 Contains(fmt::format("rope_scaling.factor is {}; it must be above 0", factor)));
  const json yarn{{"rope_type", "yarn"}, {"factor", 2.0}, {"beta_fast", 2}, {"beta_slow", 3}};
  CHECK_THAT(scaled(yarn),
             Contains("rope_scaling.beta_fast is 2; it must be at least rope_scaling.beta_slow, which is 3"));
  CHECK_THAT(scaled({{"rope_type", "yarn"}, {"factor", 2.0}, {"beta_slow", -1}}),
             Contains("rope_scaling.beta_slow is -1; it must be above 0"));
  CHECK_THAT(scaled({{"rope_type", "yarn"}, {"factor", 2.0}, {"attention_factor", 0}}),
             Contains("rope_scaling.attention_factor is 0; it must be above 0"));
  const json llama3{{"rope_type", "llama3"}, {"factor", 2.0}, {"low_freq_factor", 4}, {"high_freq_factor", 4}};
  CHECK_THAT(scaled(llama3),
             Contains("high_freq_factor is 4; it must be larger than rope_scaling.low_freq_factor, which is 4"));
  CHECK_THAT(scaled({{"rope_type", "llama3"}, {"factor", 2.0}, {"low_freq_factor", 0}, {"high_freq_factor", 4}}),
             Contains("low_freq_factor is 0; it must be above 0"));
  CHECK_THAT(changed("llama", "partial_rotary_factor", 0.5), Contains("partial_rotary_factor is 0.5"));
  CHECK_THAT(changed("llama", "quantization_config", {{"bits", 4}}), Contains("quantization_config"));
  CHECK_THAT(changed("llama", "num_key_value_heads", 3), Contains("multiple of num_key_value_heads, which is 3"));
  CHECK_THAT(changed("llama", "hidden_size", 30), Contains("multiple of num_attention_heads") && Contains("head_dim"));
  CHECK_THAT(changed("llama", "hidden_size", "big"), Contains("hidden_size must be an integer"));
  CHECK_THAT(changed("llama", "num_hidden_layers", 0), Contains("at least 1"));
  CHECK_THAT(changed("gpt2", "n_layer", 1000000000000), Contains("at most 4096 layers"));
  CHECK_THAT(changed("gpt2", "n_head", 5), Contains("multiple of n_head"));
  CHECK_THAT(changed("gpt2", "add_cross_attention", true), Contains("add_cross_attention"));
  CHECK_THROWS_WITH(load_model("/nowhere/config.json"), Contains("no such file"));
}

TEST_CASE("what a family can express is exported as that family and reads back the same") {
  for (const std::string& family : hub_families) {
    INFO(family);
    json config = config_of(family);
    config["eos_token_id"] = {3, 4};
    const LoadedModel model = load(config);
    const ExportedConfig exported = export_config(model.spec, family, DType::bfloat16, model.config_text);
    CHECK(exported.family == family);
    CHECK(exported.why_not.empty());
    const LoadedModel again = parse_model(exported.text, "export");
    CHECK(again.spec == model.spec);
    for (const std::string& note : again.notes) FAIL_CHECK(note);
    const json text = json::parse(exported.text);
    CHECK(text["eos_token_id"] == json({3, 4}));
    CHECK(text["torch_dtype"] == "bfloat16");
    CHECK(text["architectures"].size() == 1);
  }
  // Without a family of its own a spec goes to the first that can hold it.
  json config = config_of("mistral");
  CHECK(exported_family(load(config).spec) == "mistral");
  config["sliding_window"] = nullptr;
  CHECK(exported_family(load(config).spec) == "llama");
  CHECK(exported_family(load(config).spec, "mistral") == "mistral");
  CHECK(exported_family(load(config_of("qwen2")).spec) == "qwen2");
  for (const char* type : {"linear", "llama3", "yarn"}) {
    json scaled = config_of("qwen3");
    scaled["rope_parameters"] = {{"rope_type", type}, {"factor", 3.0}};
    if (std::string(type) == "llama3") {
      scaled["rope_parameters"]["low_freq_factor"] = 1;
      scaled["rope_parameters"]["high_freq_factor"] = 4;
    }
    if (std::string(type) == "yarn") scaled["rope_parameters"]["truncate"] = false;
    const TransformerSpec spec = load(scaled).spec;
    CHECK(parse_model(export_config(spec, "qwen3", DType::float32).text, "export").spec == spec);
  }
}

TEST_CASE("what no family can express is exported as our own, and says why") {
  TransformerSpec spec = load(config_of("llama")).spec;
  const auto own = [](const TransformerSpec& changed, const std::string& reason) {
    const ExportedConfig exported = export_config(changed, "llama", DType::float32);
    CHECK(exported.family == "longhaul");
    CHECK_THAT(exported.why_not, Contains("llama: ") && Contains("gpt2: ") && Contains(reason));
    CHECK(parse_model(exported.text, "export").spec == changed);
  };
  spec.logits_soft_cap = 30;
  own(spec, "logits_soft_cap");
  spec.logits_soft_cap = 0;
  spec.layers[0].layer.residual_multiplier = 0.5;
  CHECK(exported_family(spec, "llama") == "granite");
  spec.layers[0].layer.attention.soft_cap = 20;
  own(spec, "layers/0/attention/soft_cap = 20");
  spec.layers[0].layer.attention.soft_cap = 0;
  spec.layers[0].layer.residual_multiplier = 1;
  spec.layers[0].layer.attention.q_bias = true;
  own(spec, "q_bias");
  spec = load(config_of("llama")).spec;
  spec.layers[0].layer.attention.scale = 1;
  CHECK(exported_family(spec, "llama") == "granite");
  spec = load(config_of("llama")).spec;
  spec.layers.push_back(spec.layers[0]);
  spec.layers[1].layer.mlp.size = 64;
  own(spec, "layers/4/mlp/size = 64");
}

TEST_CASE("a llama may have heads of any size, as far as it says so") {
  json config = config_of("llama");
  config["hidden_size"] = 30;
  config["head_dim"] = 8;
  CHECK(load(config).spec.layer(0).attention.head_dim == 8);
  CHECK(exported_family(load(config).spec, "llama") == "llama");
}

TEST_CASE("keys that mean something in another family are refused by name unless they say no") {
  const auto with = [](const char* family, const char* key, const json& value) {
    json config = config_of(family);
    config[key] = value;
    return message(config);
  };
  CHECK_THAT(with("llama", "num_experts", 8), Contains("num_experts is 8") && Contains("mixtures of experts"));
  CHECK(with("llama", "num_experts", 1) == "accepted");
  CHECK_THAT(with("qwen3", "kv_lora_rank", 512), Contains("kv_lora_rank") && Contains("MLA"));
  CHECK_THAT(with("mistral", "vision_config", {{"a", 1}}), Contains("vision_config") && Contains("images"));
  CHECK_THAT(with("llama", "attn_logit_softcapping", 50.0), Contains("attn_logit_softcapping is 50"));
  CHECK(with("llama", "attn_logit_softcapping", nullptr) == "accepted");
  CHECK(with("gemma2", "attn_logit_softcapping", 50.0) == "accepted");
  CHECK_THAT(with("stablelm", "qk_layernorm", true), Contains("qk_layernorm is true"));
  CHECK(with("stablelm", "qk_layernorm", false) == "accepted");
  CHECK_THAT(with("cohere", "use_qk_norm", true), Contains("use_qk_norm is true"));
  CHECK_THAT(with("mistral", "attention_bias", true), Contains("attention_bias is true"));
  CHECK(with("llama", "attention_bias", true) == "accepted");
  CHECK_THAT(with("llama", "sliding_window", 64), Contains("sliding_window is 64"));
  CHECK(with("llama", "sliding_window", 128) == "accepted");  // reaches every position
  CHECK(with("phi3", "sliding_window", 64) == "accepted");
  CHECK_THAT(with("llama", "layer_types", {"full_attention", "sliding_attention"}), Contains("layer_types"));
  CHECK(with("llama", "layer_types", {"full_attention", "full_attention"}) == "accepted");
  CHECK_THAT(with("gemma", "partial_rotary_factor", 0.5), Contains("partial_rotary_factor is 0.5"));
  CHECK(with("phi", "partial_rotary_factor", 0.25) == "accepted");
}

TEST_CASE("parameters of RoPE that transformers does not read are named, and those that nobody knows refused") {
  json config = config_of("qwen3");
  config.erase("rope_parameters");
  config["rope_scaling"] = {
      {"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32}, {"attn_factor", 0.8}};
  const LoadedModel model = load(config);
  CHECK(model.spec.layer(0).rope.attention_factor == Approx(0.1 * std::log(4.0) + 1));
  REQUIRE_FALSE(model.notes.empty());
  CHECK_THAT(model.notes[0], Contains("rope_scaling.attn_factor 0.8 is not read") && Contains("1.13863") &&
                                 Contains("write attention_factor"));
  config["rope_scaling"].erase("attn_factor");
  config["rope_scaling"]["finetuned"] = true;
  REQUIRE_FALSE(load(config).notes.empty());
  CHECK_THAT(load(config).notes[0], Contains("rope_scaling.finetuned"));
  config["rope_scaling"]["made_by"] = "us";
  REQUIRE(load(config).notes.size() >= 2);
  CHECK_THAT(load(config).notes[1], Contains("rope_scaling.made_by \"us\" is not read"));
  config["rope_scaling"]["beta_fist"] = 30;
  CHECK_THAT(message(config), Contains("rope_scaling.beta_fist is not known") && Contains("did you mean beta_fast?") &&
                                  Contains("remove it"));
}

TEST_CASE("numbers as Python writes them: whole ones with a fraction, and what JSON has no number for") {
  json config = config_of("llama");
  const TransformerSpec spec = load(config).spec;
  config["hidden_size"] = config["hidden_size"].get<double>();
  CHECK(load(config).spec == spec);
  CHECK_THAT(load(config).notes.back(), Contains("taken as integers: hidden_size 32.0"));
  config["hidden_size"] = 32.5;
  CHECK_THAT(message(config), Contains("hidden_size must be an integer; it is 32.5"));
  config = config_of("llama");
  const auto with = [&](const std::string& more) {
    std::string text = config.dump();
    return text.substr(0, text.size() - 1) + ", " + more + "}";
  };
  for (const char* value : {"NaN", "Infinity", "-Infinity", "1e999", "-1e999", "[0.0, Infinity]", "\"NaN\\\" NaN\""})
    CHECK(parse_model(with("\"time_step_limit\": " + std::string(value)), "config.json").spec == spec);
  CHECK(parse_model("\xef\xbb\xbf" + config.dump(), "config.json").spec == spec);
  config.erase("rms_norm_eps");
  for (const char* value : {"NaN", "Infinity", "1e999"})
    CHECK_THROWS_WITH(parse_model(with("\"rms_norm_eps\": " + std::string(value)), "config.json"),
                      Contains("rms_norm_eps must be a number; it is \"" + std::string(value)));
  CHECK_NOTHROW(parse_model(with("\"time_step_limit\": [1e-400, 1]"), "config.json"));
}

TEST_CASE("a head_dim other than hidden size / heads is read or refused in every family") {
  for (const std::string& family : hub_families) {
    INFO(family);
    json config = config_of(family);
    const std::int64_t usual = load(config).spec.layer(0).attention.head_dim;
    config["head_dim"] = 2 * usual;
    const std::string result = message(config);
    if (result == "accepted")
      CHECK(load(config).spec.layer(0).attention.head_dim == 2 * usual);
    else
      CHECK_THAT(result, Contains("head_dim"));
  }
}

TEST_CASE("Phi-3: longrope in its old spellings, with the original length beside it") {
  json config = config_of("phi3");
  config.erase("rope_parameters");
  config["original_max_position_embeddings"] = 32;
  config["rope_scaling"] = {{"short_factor", {1, 1, 1.5, 2}}, {"long_factor", {1, 2, 3, 4}}};
  for (const char* type : {"longrope", "su", "yarn"}) {
    config["rope_scaling"]["type"] = type;
    const RopeSpec rope = load(config).spec.layer(0).rope;
    CHECK(rope.kind == RopeKind::longrope);
    CHECK(rope.long_factors == std::vector<double>{1, 2, 3, 4});
    CHECK(rope.original_max_positions == 32);
    CHECK(rope.attention_factor == Approx(std::sqrt(1 + std::log(4.0) / std::log(32.0))));
  }
  config["rope_scaling"]["factor"] = -0.5;
  CHECK_THAT(message(config), Contains("rope_scaling.factor is -0.5; it must be above 0"));
  config["rope_scaling"].erase("factor");
  config["rope_scaling"]["long_factor"] = {1, 2, 3, -4};
  CHECK_THAT(message(config), Contains("rope_scaling.long_factor must be a list of 4 numbers above 0"));
  config["rope_scaling"]["long_factor"] = {1, 2};
  CHECK_THAT(message(config), Contains("rope_scaling.long_factor must be a list of 4 numbers above 0"));
}

TEST_CASE("every parameter has a tensor in every family, of the same number of elements") {
  for (const std::string& family : hub_families)
    for (bool tied : {false, true}) {
      INFO(family << ", tied " << tied);
      json config = config_of(family);
      config["tie_word_embeddings"] = tied;
      const TransformerSpec spec = load(config).spec;
      const auto list = parameters(spec);
      const auto mappings = weight_mappings(spec, family);
      REQUIRE(mappings.size() == list.size());
      // Together the parameters cover every element of every tensor exactly once.
      std::map<std::string, std::vector<int>> covered;
      for (std::size_t i = 0; i < list.size(); ++i) {
        CHECK(mappings[i].parameter == list[i].name);
        CHECK(mappings[i].shape == list[i].shape);
        std::int64_t size = 1;
        for (std::int64_t extent : mappings[i].tensor_shape) size *= extent;
        auto& counts = covered[mappings[i].tensor];
        counts.resize(static_cast<std::size_t>(size));
        for (std::int64_t e = 0; e < mappings[i].elements(); ++e)
          ++counts.at(static_cast<std::size_t>(mappings[i].tensor_offset(e)));
      }
      for (const auto& [tensor, counts] : covered) {
        INFO(tensor);
        CHECK(std::all_of(counts.begin(), counts.end(), [](int count) { return count == 1; }));
        CHECK_FALSE(is_ignored_tensor(tensor, spec, family));
      }
      CHECK(is_ignored_tensor("lm_head.weight", spec, family) == tied);
    }
  const auto own = weight_mappings(load(config_of("llama")).spec, "longhaul");
  CHECK(own[1].tensor == own[1].parameter);
  CHECK(own[2].tensor_offset(5) == 5);
  CHECK_THROWS_WITH(weight_mappings(load(config_of("llama")).spec, "bert"), Contains("supported are"));
}

TEST_CASE("tensor names, shapes and transposition are those of the families") {
  const auto find = [](const std::string& family, const std::string& parameter) {
    for (const auto& mapping : weight_mappings(load(config_of(family)).spec, family))
      if (mapping.parameter == parameter) return mapping;
    throw std::runtime_error(parameter);
  };
  using Shape = std::vector<std::int64_t>;
  CHECK(find("llama", "layers.2.attention.k.weight").tensor == "model.layers.2.self_attn.k_proj.weight");
  CHECK(find("llama", "layers.2.attention.k.weight").tensor_shape == Shape{16, 32});
  CHECK(find("llama", "layers.2.mlp_norm.weight").tensor == "model.layers.2.post_attention_layernorm.weight");
  CHECK(find("llama", "head.weight").tensor == "lm_head.weight");
  CHECK(find("qwen2", "layers.0.attention.v.bias").tensor == "model.layers.0.self_attn.v_proj.bias");
  CHECK(find("qwen3", "layers.0.attention.q_norm.weight").tensor_shape == Shape{16});
  CHECK(find("qwen3", "layers.0.attention.o.weight").tensor_shape == Shape{32, 64});

  const WeightMapping v = find("gpt2", "layers.1.attention.v.weight");
  CHECK(v.tensor == "transformer.h.1.attn.c_attn.weight");
  CHECK(v.other_name == "h.1.attn.c_attn.weight");
  CHECK(v.tensor_shape == Shape{32, 96});
  // Output 3 (head 0, dimension 3) from input 5: row 5, column 2 x 32 + 3.
  CHECK(v.tensor_offset(3 * 32 + 5) == 5 * 96 + 64 + 3);
  const WeightMapping k_bias = find("gpt2", "layers.1.attention.k.bias");
  CHECK(k_bias.tensor_offset(7) == 32 + 7);
  const WeightMapping down = find("gpt2", "layers.0.mlp.down.weight");
  CHECK(down.tensor_shape == Shape{128, 32});
  CHECK(down.tensor_offset(2 * 128 + 9) == 9 * 32 + 2);
  const TransformerSpec gpt2 = load(config_of("gpt2")).spec;
  CHECK(is_ignored_tensor("h.0.attn.bias", gpt2, "gpt2"));
  CHECK(is_ignored_tensor("transformer.h.0.attn.masked_bias", gpt2, "gpt2"));
  CHECK_FALSE(is_ignored_tensor("h.0.attn.c_attn.bias", gpt2, "gpt2"));
  CHECK(is_ignored_tensor("model.layers.0.self_attn.rotary_emb.inv_freq", load(config_of("llama")).spec, "llama"));
}

TEST_CASE("garbled model files are refused as user errors, never as crashes") {
  std::uint64_t state = 1;
  const auto next = [&](std::size_t bound) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::size_t>(state >> 33) % bound;
  };
  std::size_t refused = 0, accepted = 0;
  const std::string pieces = "{}[],:\"019-.eE\n ntf\\/\xff";
  for (const std::string& family : hub_families) {
    const std::string good = config_of(family).dump(1);
    for (int i = 0; i < 300; ++i) {
      std::string text = good;
      for (std::size_t edits = 1 + next(3); edits > 0; --edits) {
        const std::size_t at = next(text.size());
        if (next(2))
          text[at] = pieces[next(pieces.size())];
        else
          text.erase(at, 1 + next(4));
      }
      try {
        parse_model(text, "config.json");
        ++accepted;
      } catch (const Error&) {
        ++refused;
      }
    }
  }
  CHECK(refused > 500);
  CHECK(accepted > 50);
}
