// Gemma 3, text: Gemma 2 with QK-norm instead of soft caps, and a RoPE of its own in the layers that have a window,
// five of six.
#include "model/family_decoder.h"

namespace longhaul {
namespace {

using nlohmann::ordered_json;

const DecoderDefaults defaults = {.vocab_size = 262208,
                                  .hidden_size = 2304,
                                  .intermediate_size = 9216,
                                  .layers = 26,
                                  .heads = 8,
                                  .kv_heads = 4,
                                  .head_dim = 256,
                                  .max_positions = 131072,
                                  .activation = "gelu_pytorch_tanh",
                                  .activation_key = "hidden_activation",
                                  .tied = true,
                                  .rope = {.theta = 1000000.0}};

/// query_pre_attn_scalar: the scores are divided by its root.
std::int64_t pre_attention_scalar(const TransformerSpec& spec) {
  const double scale = spec.layer(0).attention.scale;
  return std::llround(1 / (scale * scale));  // transformers takes an integer only
}
ordered_json cap(double value) {
  return value == 0 ? ordered_json(nullptr) : ordered_json(value);
}

class Gemma3Text : public DecoderFamily {
 public:
  std::string model_type() const override { return "gemma3_text"; }
  std::string architecture() const override { return "Gemma3ForCausalLM"; }

  TransformerSpec to_spec(ConfigReader& config) const override {
    // transformers 5 nests the parameters of both kinds of layers in one object.
    DecoderDefaults own = defaults;
    const nlohmann::json* parameters = config.raw("rope_parameters");
    const auto nested = [&](const char* kind) -> const nlohmann::json* {
      if (!parameters || !parameters->is_object() || !parameters->contains(kind)) return nullptr;
      return &parameters->at(kind);
    };
    own.rope.table = nested("full_attention");
    TransformerSpec spec = read_decoder(config, own);
    LayerSpec& layer = spec.layers[0].layer;
    layer.norm.unit_offset = spec.final_norm.unit_offset = true;
    spec.embedding_multiplier = std::sqrt(static_cast<double>(spec.hidden_size));
    layer.norm_placement = NormPlacement::both;
    layer.attention.scale = 1 / std::sqrt(config.number("query_pre_attn_scalar", 256));
    layer.attention.q_bias = layer.attention.k_bias = layer.attention.v_bias = layer.attention.o_bias =
        config.boolean("attention_bias", false);
    layer.attention.soft_cap = config.holds("attn_logit_softcapping") && !config.raw("attn_logit_softcapping")
                                   ? 0
                                   : config.number("attn_logit_softcapping", 0);
    spec.logits_soft_cap = config.holds("final_logit_softcapping") && !config.raw("final_logit_softcapping")
                               ? 0
                               : config.number("final_logit_softcapping", 0);
    layer.attention.qk_norm = layer.attention.qk_norm_unit_offset = true;
    layer.attention.qk_norm_epsilon = layer.norm.epsilon;
    const nlohmann::json silent = nlohmann::json::object();
    RopeKeys local{.theta = 10000, .theta_key = "rope_local_base_freq"};
    local.table = nested("sliding_attention") ? nested("sliding_attention") : &silent;
    const RopeSpec turned = config.rope(layer.attention.head_dim, spec.max_positions, local);
    config.ignore({"hidden_act", "cache_implementation"});  // an older name of hidden_activation, and of inference
    const std::int64_t pattern =
        config.raw("sliding_window_pattern") ? config.integer("sliding_window_pattern", {}) : 6;
    config.ignore({"_sliding_window_pattern"});
    const std::int64_t window = config.integer("sliding_window", 4096);
    split_layers(spec);
    std::vector<bool> by_pattern;
    for (std::int64_t i = 0; i < spec.layer_count(); ++i) by_pattern.push_back((i + 1) % pattern != 0);
    const std::vector<bool> sliding = sliding_layers(config, spec, by_pattern);
    for (std::size_t i = 0; i < spec.layers.size(); ++i)
      if (sliding[i]) {
        spec.layers[i].layer.attention.window = window;
        spec.layers[i].layer.rope = turned;
      }
    return spec;
  }

  ordered_json to_config(const TransformerSpec& spec) const override {
    ordered_json config = write_decoder(spec, defaults);
    config["attention_bias"] = spec.layer(0).attention.q_bias;
    config["query_pre_attn_scalar"] = pre_attention_scalar(spec);
    config["attn_logit_softcapping"] = cap(spec.layer(0).attention.soft_cap);
    config["final_logit_softcapping"] = cap(spec.logits_soft_cap);
    write_layer_types(spec, config);
    // The kind of layer that a model lacks keeps the default.
    RopeSpec full, local;
    full.kind = local.kind = RopeKind::plain;
    full.theta = 1000000;
    local.theta = 10000;
    for (const LayerSpec* layer : spec.each_layer()) (layer->attention.window ? local : full) = layer->rope;
    write_rope(full, config);
    config["rope_local_base_freq"] = local.theta;
    if (config["sliding_window"].is_null()) config["sliding_window"] = 4096;
    return config;
  }

 protected:
  DecoderNames names() const override {
    DecoderNames names;
    names.mlp_norm = "pre_feedforward_layernorm";
    return names;
  }
};

const RegisterFamily registration(std::make_unique<Gemma3Text>());

}  // namespace
}  // namespace longhaul
