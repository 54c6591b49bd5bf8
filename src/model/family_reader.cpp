// ConfigReader: the keys of config.json that families share, and those that no family may overlook. family_rope.cpp has
// what concerns RoPE.
#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/nearest_name.h"
#include "model/family.h"
#include "model/spec_fields.h"

namespace longhaul {
namespace {

// What config.json calls activations; of several names of one, the first is written.
constexpr std::pair<std::string_view, Activation> transformers_activations[] = {
    {"silu", Activation::silu},          {"swish", Activation::silu},
    {"gelu", Activation::gelu},          {"gelu_pytorch_tanh", Activation::gelu_tanh},
    {"gelu_new", Activation::gelu_tanh}, {"gelu_fast", Activation::gelu_tanh},
    {"relu", Activation::relu},
};

}  // namespace

using nlohmann::json;
using nlohmann::ordered_json;

ConfigReader::ConfigReader(const json& config, std::string origin, std::string family)
    : config_(config), origin_(std::move(origin)), family_(std::move(family)) {
  ignore({"model_type",
          "architectures",
          "auto_map",
          "_name_or_path",
          "name_or_path",
          "torch_dtype",
          "dtype",
          "transformers_version",
          "use_cache",
          "pad_token_id",
          "bos_token_id",
          "eos_token_id",
          "_attn_implementation",
          "attn_implementation",
          "return_dict",
          "output_attentions",
          "output_hidden_states",
          "tokenizer_class",
          "task_specific_params",
          "$schema"});
  refuse_unless("quantization_config", nullptr);
  refuse_unless("is_encoder_decoder", false);
  refuse_unless("add_cross_attention", false);
}

const json* ConfigReader::raw(const char* key) {
  read_.insert(key);
  const auto found = config_.find(key);
  return found == config_.end() || found->is_null() ? nullptr : &*found;
}

std::optional<std::int64_t> ConfigReader::optional_integer(const char* key) {
  const json* value = raw(key);
  if (!value) return std::nullopt;
  const double number = value->is_number() ? value->get<double>() : HUGE_VAL;
  if (std::abs(number) > 1e15 || std::floor(number) != number)
    refuse(fmt::format("{} must be an integer; it is {}", key, value->dump()));
  if (!value->is_number_integer()) whole_.insert(fmt::format("{} {}", key, value->dump()));
  return static_cast<std::int64_t>(number);
}

std::int64_t ConfigReader::integer(const char* key, std::optional<std::int64_t> fallback, std::int64_t minimum) {
  const std::optional<std::int64_t> value = optional_integer(key);
  if (!value && !fallback) refuse(fmt::format("the key {} is missing", key));
  const std::int64_t result = value ? *value : *fallback;
  if (!value) take_default(key, std::to_string(result));
  if (result < minimum) refuse(fmt::format("{} must be at least {}; it is {}", key, minimum, result));
  return result;
}

std::int64_t ConfigReader::layer_count(const char* key, std::int64_t fallback) {
  const std::int64_t count = integer(key, fallback);
  if (count > spec_fields::most_layers)
    refuse(fmt::format("{} is {}; at most {} layers are supported", key, count, spec_fields::most_layers));
  return count;
}

double ConfigReader::number(const char* key, double fallback) {
  const json* value = raw(key);
  if (value && !value->is_number()) refuse(fmt::format("{} must be a number; it is {}", key, value->dump()));
  // 0 and 1 are what a model without that key has.
  if (!value && fallback != 0 && fallback != 1) take_default(key, fmt::format("{}", fallback));
  return value ? value->get<double>() : fallback;
}

bool ConfigReader::boolean(const char* key, bool fallback) {
  const json* value = raw(key);
  if (value && !value->is_boolean()) refuse(fmt::format("{} must be true or false; it is {}", key, value->dump()));
  if (!value && fallback) take_default(key, "true");
  return value ? value->get<bool>() : fallback;
}

std::string ConfigReader::text(const char* key, const char* fallback) {
  const json* value = raw(key);
  if (value && !value->is_string()) refuse(fmt::format("{} must be a text; it is {}", key, value->dump()));
  if (!value) take_default(key, fallback);
  return value ? value->get<std::string>() : fallback;
}

void ConfigReader::take_default(const char* key, const std::string& value) {
  // A key may be asked for twice, or another of its names be there instead: what was read first is what was meant.
  for (const auto& [known, taken] : defaults_)
    if (known == key) return;
  defaults_.emplace_back(key, fmt::format("{} {}{}", key, value, holds(key) ? " (from null)" : ""));
}

Activation ConfigReader::activation(const char* key, const char* fallback) {
  const std::string name = text(key, fallback);
  std::string names;
  for (const auto& [known, activation] : transformers_activations) {
    if (name == known) return activation;
    names += (names.empty() ? "" : ", ") + std::string(known);
  }
  refuse(fmt::format("{} is \"{}\"; supported are {}", key, name, names));
}

void ConfigReader::dropout(const char* key) {
  const double rate = number(key, 0);
  if (rate != 0) dropouts_ += fmt::format("{}{} {}", dropouts_.empty() ? "" : ", ", key, rate);
}

void ConfigReader::ignore(std::initializer_list<const char*> keys) {
  for (const char* key : keys) read_.insert(key);
}

void ConfigReader::refuse_unless(const char* key, const json& harmless) {
  const json* value = raw(key);
  if (value && *value != harmless)
    refuse(fmt::format("{} is {}, which is not supported{}", key, value->dump().substr(0, 60),
                       harmless.is_null() ? "" : fmt::format(" (supported: {})", harmless.dump())));
}

void ConfigReader::refuse(const std::string& message) const {
  fail("{}: {} (a Hugging Face config of the {} family)", origin_, message, family_);
}

void ConfigReader::note(const std::string& message) {
  notes_.push_back(fmt::format("{}: {}", origin_, message));
}

void ConfigReader::refuse_unread() {
  struct Meaning {
    const char* key;
    const char* what;
    json harmless;  // beside null, false, 0 and an empty list
  };
  static const std::vector<Meaning> meanings = {
      {"num_experts", "mixtures of experts are not supported", 1},
      {"num_local_experts", "mixtures of experts are not supported", 1},
      {"n_routed_experts", "mixtures of experts are not supported", 1},
      {"moe_num_experts", "mixtures of experts are not supported", 1},
      {"num_experts_per_tok", "mixtures of experts are not supported", 1},
      {"kv_lora_rank", "latent attention (MLA) is not supported", nullptr},
      {"q_lora_rank", "latent attention (MLA) is not supported", nullptr},
      {"vision_config", "images are not supported; train the text model by a config.json of its own", nullptr},
      {"audio_config", "audio is not supported; train the text model by a config.json of its own", nullptr},
      {"text_config", "the model is nested; give its text model a config.json of its own", nullptr},
      {"num_nextn_predict_layers", "layers that predict more than the next token are not supported", nullptr},
      {"alibi", "ALiBi is not supported", nullptr},
      {"use_alibi", "ALiBi is not supported", nullptr},
      {"attn_logit_softcapping", "the family has no soft cap", nullptr},
      {"final_logit_softcapping", "the family has no soft cap", nullptr},
      {"logit_scale", "the family does not scale its logits", 1},
      {"logits_scaling", "the family does not scale its logits", 1},
      {"embedding_multiplier", "the family does not scale its embeddings", 1},
      {"residual_multiplier", "the family does not scale its branches", 1},
      {"attention_multiplier", "the family scales its scores by 1 / sqrt(head_dim)", nullptr},
      {"query_pre_attn_scalar", "the family scales its scores by 1 / sqrt(head_dim)", nullptr},
      {"scale_emb", "the family does not scale its embeddings", 1},
      {"scale_depth", "the family does not scale its branches", nullptr},
      {"dim_model_base", "the family does not scale its logits", nullptr},
      {"qk_layernorm", "the family has no norm of queries and keys", nullptr},
      {"qk_norm", "the family has no such norm of queries and keys", nullptr},
      {"use_qk_norm", "the family has no such norm of queries and keys", nullptr},
      {"clip_qkv", "clipped projections are not supported", nullptr},
      {"partial_rotary_factor", "the family turns whole heads", 1},
      {"rotary_pct", "the family turns whole heads", 1},
      {"rope_interleaved", "rotary pairs side by side are not read in this family", nullptr},
      {"no_rope_layers", "the family has RoPE in every layer", nullptr},
      {"rope_local_base_freq", "the family has one RoPE for all layers", nullptr},
      {"use_sliding_window", "the family has no windows of that kind", nullptr},
      {"use_bidirectional_attention", "only causal attention is supported", nullptr},
      {"use_parallel_residual", "the family's branches are sequential", nullptr},
      {"parallel_residual", "the family's branches are sequential", nullptr},
      {"attention_bias", "the family has no such biases", nullptr},
      {"mlp_bias", "the family has no such biases", nullptr},
      {"use_bias", "the family has no such biases", nullptr},
      {"bias", "the family has no such biases", nullptr},
      {"lm_head_bias", "the family's head has no bias", nullptr},
  };
  for (const Meaning& one : meanings) {
    if (read_.contains(one.key)) continue;
    const json* value = raw(one.key);
    const bool none =
        !value || *value == json(false) || *value == json(0) || (value->is_structured() && value->empty());
    if (none || (!one.harmless.is_null() && *value == one.harmless)) continue;
    const std::string text = value->dump();
    refuse(fmt::format("{} is {}: {}", one.key, text.size() > 60 ? text.substr(0, 60) + "..." : text, one.what));
  }
  // A window that reaches everything, or layers that are all alike, change nothing.
  if (!read_.contains("sliding_window"))
    if (const json* window = raw("sliding_window"))
      if (const json* length = raw("max_position_embeddings");
          !window->is_number() || !length || !length->is_number() || window->get<double>() < length->get<double>())
        refuse(fmt::format("sliding_window is {}, and the family has no windows; supported: null", window->dump()));
  if (!read_.contains("layer_types"))
    if (const json* types = raw("layer_types"); types && types->is_array())
      for (const json& type : *types)
        if (type != "full_attention")
          refuse(fmt::format("layer_types holds {}; the family has \"full_attention\" only", type.dump()));
}

std::vector<std::string> ConfigReader::notes() const {
  std::vector<std::string> notes = notes_;
  if (!dropouts_.empty())
    notes.push_back(fmt::format("{}: ignored {}: training is without dropout", origin_, dropouts_));
  std::vector<std::string> taken;
  for (const auto& [key, text] : defaults_) taken.push_back(text);
  if (!taken.empty())
    notes.push_back(fmt::format("{}: keys that it does not have, at the {} family's defaults: {}", origin_, family_,
                                join_names(taken)));
  if (!whole_.empty())
    notes.push_back(fmt::format("{}: numbers with a fraction of zero, taken as integers: {}", origin_,
                                join_names({whole_.begin(), whole_.end()})));
  std::vector<std::string> unread;
  for (const auto& [key, value] : config_.items())
    if (!read_.contains(key)) unread.push_back(key);
  if (!unread.empty())
    notes.push_back(
        fmt::format("{}: ignored keys that the {} family does not read: {}", origin_, family_, join_names(unread)));
  return notes;
}

std::string activation_name(Activation activation) {
  for (const auto& [name, known] : transformers_activations)
    if (known == activation) return std::string(name);
  LONGHAUL_CHECK(false, "no name of {}", name_of(activation));
}

}  // namespace longhaul
