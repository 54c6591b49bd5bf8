// ConfigReader: the keys of config.json that families share.
#include <algorithm>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/nearest_name.h"
#include "model/family.h"
#include "model/rope.h"
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
  refuse_unless("partial_rotary_factor", 1.0);
}

const json* ConfigReader::raw(const char* key) {
  read_.insert(key);
  const auto found = config_.find(key);
  return found == config_.end() || found->is_null() ? nullptr : &*found;
}

std::optional<std::int64_t> ConfigReader::optional_integer(const char* key) {
  const json* value = raw(key);
  if (!value) return std::nullopt;
  if (!value->is_number_integer() || value->get<double>() > 1e15)
    refuse(fmt::format("{} must be an integer; it is {}", key, value->dump()));
  return value->get<std::int64_t>();
}

std::int64_t ConfigReader::integer(const char* key, std::optional<std::int64_t> fallback, std::int64_t minimum) {
  const std::optional<std::int64_t> value = optional_integer(key);
  if (!value && !fallback) refuse(fmt::format("the key {} is missing", key));
  const std::int64_t result = value ? *value : *fallback;
  if (!holds(key)) defaults_ += fmt::format("{}{} {}", defaults_.empty() ? "" : ", ", key, result);
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
  return value ? value->get<double>() : fallback;
}

bool ConfigReader::boolean(const char* key, bool fallback) {
  const json* value = raw(key);
  if (value && !value->is_boolean()) refuse(fmt::format("{} must be true or false; it is {}", key, value->dump()));
  return value ? value->get<bool>() : fallback;
}

std::string ConfigReader::text(const char* key, const char* fallback) {
  const json* value = raw(key);
  if (value && !value->is_string()) refuse(fmt::format("{} must be a text; it is {}", key, value->dump()));
  return value ? value->get<std::string>() : fallback;
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

RopeSpec ConfigReader::rope(std::int64_t head_dim, std::int64_t max_positions) {
  // transformers 5 takes rope_scaling before rope_parameters when a file holds both.
  const json* parameters = raw("rope_parameters");
  const json* scaling = raw("rope_scaling");
  const char* name = scaling ? "rope_scaling" : "rope_parameters";
  const json empty = json::object();
  const json& table = scaling ? *scaling : parameters ? *parameters : empty;
  if (!table.is_object()) refuse(fmt::format("{} must be an object; it is {}", name, table.dump()));

  std::vector<std::string> known = {"rope_type", "type", "rope_theta", "partial_rotary_factor",
                                    "original_max_position_embeddings"};
  const auto find = [&](const char* key) -> const json* {
    known.emplace_back(key);
    const auto found = table.find(key);
    return found == table.end() || found->is_null() ? nullptr : &*found;
  };
  const auto number_at = [&](const char* key, std::optional<double> fallback) {
    const json* value = find(key);
    if (value && !value->is_number()) refuse(fmt::format("{}.{} must be a number; it is {}", name, key, value->dump()));
    if (!value && !fallback) refuse(fmt::format("{}.{} is missing", name, key));
    return value ? value->get<double>() : *fallback;
  };

  RopeSpec rope;
  rope.rotary_dim = head_dim;
  rope.theta = number_at("rope_theta", number("rope_theta", 10000.0));
  if (const double part = number_at("partial_rotary_factor", 1.0); part != 1)
    refuse(fmt::format("partial_rotary_factor is {}; supported is 1", part));
  const json* type = find("rope_type");
  if (!type) type = find("type");
  const std::string type_name = !type ? "default" : type->is_string() ? type->get<std::string>() : type->dump();

  if (type_name == "llama3" || type_name == "yarn") {
    const json* given = raw("original_max_position_embeddings");  // beside the table it has precedence
    if (!given) given = find("original_max_position_embeddings");
    if (given && !given->is_number_integer())
      refuse(fmt::format("original_max_position_embeddings must be an integer; it is {}", given->dump()));
    rope.original_max_positions = given ? given->get<std::int64_t>() : max_positions;
  }
  if (type_name == "default") {
    rope.kind = RopeKind::plain;
  } else if (type_name == "linear") {
    rope.kind = RopeKind::linear;
    rope.factor = number_at("factor", {});
  } else if (type_name == "llama3") {
    rope.kind = RopeKind::llama3;
    rope.factor = number_at("factor", {});
    rope.low_frequency_factor = number_at("low_freq_factor", {});
    rope.high_frequency_factor = number_at("high_freq_factor", {});
  } else if (type_name == "yarn") {
    rope.kind = RopeKind::yarn;
    // Without a factor: the ratio of the lengths, as transformers 5 does.
    rope.factor = number_at("factor", static_cast<double>(max_positions) /
                                          static_cast<double>(std::max<std::int64_t>(1, rope.original_max_positions)));
    // Zero counts as not given.
    if (const double turns = number_at("beta_fast", 0); turns != 0) rope.beta_fast = turns;
    if (const double turns = number_at("beta_slow", 0); turns != 0) rope.beta_slow = turns;
    if (const json* truncate = find("truncate")) {
      if (!truncate->is_boolean()) refuse(fmt::format("{}.truncate must be true or false", name));
      rope.truncate = truncate->get<bool>();
    }
    const double computed = yarn_attention_factor(rope.factor, number_at("mscale", 0), number_at("mscale_all_dim", 0));
    rope.attention_factor = number_at("attention_factor", computed);
  } else {
    refuse(fmt::format("{} has type \"{}\"; supported RoPE types are default, linear, llama3, yarn", name, type_name));
  }
  for (const auto& [key, value] : table.items())
    if (std::find(known.begin(), known.end(), key) == known.end())
      refuse(fmt::format("{}.{} is not supported with RoPE type {}; supported here are {}", name, key, type_name,
                         join_names(known)));
  return rope;
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

std::vector<std::string> ConfigReader::notes() const {
  std::vector<std::string> notes;
  if (!dropouts_.empty())
    notes.push_back(fmt::format("{}: ignored {}: training is without dropout", origin_, dropouts_));
  if (!defaults_.empty())
    notes.push_back(
        fmt::format("{}: keys that it does not have, at the {} family's defaults: {}", origin_, family_, defaults_));
  std::vector<std::string> unread;
  for (const auto& [key, value] : config_.items())
    if (!read_.contains(key)) unread.push_back(key);
  if (!unread.empty())
    notes.push_back(
        fmt::format("{}: ignored keys that the {} family does not read: {}", origin_, family_, join_names(unread)));
  return notes;
}

void write_rope(const RopeSpec& rope, ordered_json& config) {
  config["rope_theta"] = rope.theta;
  ordered_json scaling = nullptr;
  if (rope.kind == RopeKind::linear) scaling = {{"rope_type", "linear"}, {"factor", rope.factor}};
  if (rope.kind == RopeKind::llama3)
    scaling = {{"rope_type", "llama3"},
               {"factor", rope.factor},
               {"low_freq_factor", rope.low_frequency_factor},
               {"high_freq_factor", rope.high_frequency_factor},
               {"original_max_position_embeddings", rope.original_max_positions}};
  if (rope.kind == RopeKind::yarn) {
    scaling = {{"rope_type", "yarn"},
               {"factor", rope.factor},
               {"original_max_position_embeddings", rope.original_max_positions},
               {"beta_fast", rope.beta_fast},
               {"beta_slow", rope.beta_slow},
               {"attention_factor", rope.attention_factor}};
    if (!rope.truncate) scaling["truncate"] = false;
  }
  config["rope_scaling"] = scaling;
}

std::string activation_name(Activation activation) {
  for (const auto& [name, known] : transformers_activations)
    if (known == activation) return std::string(name);
  LONGHAUL_CHECK(false, "no name of {}", name_of(activation));
}

}  // namespace longhaul
