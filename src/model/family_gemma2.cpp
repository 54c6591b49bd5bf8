// Gemma 2: Gemma with norms before and behind the branches, soft caps of scores and logits, and a window in every other
// layer.
#include "model/family_decoder.h"

namespace longhaul {
namespace {

using nlohmann::ordered_json;

const DecoderDefaults defaults = {.vocab_size = 256000,
                                  .hidden_size = 2304,
                                  .intermediate_size = 9216,
                                  .layers = 26,
                                  .heads = 8,
                                  .kv_heads = 4,
                                  .head_dim = 256,
                                  .max_positions = 8192,
                                  .activation = "gelu_pytorch_tanh",
                                  .activation_key = "hidden_activation",
                                  .tied = true};

/// query_pre_attn_scalar: the scores are divided by its root.
std::int64_t pre_attention_scalar(const TransformerSpec& spec) {
  const double scale = spec.layer(0).attention.scale;
  return std::llround(1 / (scale * scale));  // transformers takes an integer only
}
ordered_json cap(double value) {
  return value == 0 ? ordered_json(nullptr) : ordered_json(value);
}

class Gemma2 : public DecoderFamily {
 public:
  std::string model_type() const override { return "gemma2"; }
  std::string architecture() const override { return "Gemma2ForCausalLM"; }

  TransformerSpec to_spec(ConfigReader& config) const override {
    TransformerSpec spec = read_decoder(config, defaults);
    LayerSpec& layer = spec.layers[0].layer;
    layer.norm.unit_offset = spec.final_norm.unit_offset = true;
    spec.embedding_multiplier = std::sqrt(static_cast<double>(spec.hidden_size));
    layer.norm_placement = NormPlacement::both;
    layer.attention.scale = 1 / std::sqrt(config.number("query_pre_attn_scalar", 256));
    layer.attention.q_bias = layer.attention.k_bias = layer.attention.v_bias = layer.attention.o_bias =
        config.boolean("attention_bias", false);
    layer.attention.soft_cap = config.holds("attn_logit_softcapping") && !config.raw("attn_logit_softcapping")
                                   ? 0
                                   : config.number("attn_logit_softcapping", 50);
    spec.logits_soft_cap = config.holds("final_logit_softcapping") && !config.raw("final_logit_softcapping")
                               ? 0
                               : config.number("final_logit_softcapping", 30);
    config.ignore({"hidden_act", "cache_implementation"});  // an older name of hidden_activation, and of inference
    // A missing key is the default; null is none.
    const std::int64_t window =
        config.raw("sliding_window") || !config.holds("sliding_window") ? config.integer("sliding_window", 4096) : 0;
    split_layers(spec);
    std::vector<bool> every_other;
    for (std::size_t i = 0; i < spec.layers.size(); ++i) every_other.push_back(i % 2 == 0);
    const std::vector<bool> sliding = sliding_layers(config, spec, every_other);
    for (std::size_t i = 0; i < spec.layers.size(); ++i)
      if (sliding[i]) spec.layers[i].layer.attention.window = window;
    return spec;
  }

  ordered_json to_config(const TransformerSpec& spec) const override {
    ordered_json config = write_decoder(spec, defaults);
    config["attention_bias"] = spec.layer(0).attention.q_bias;
    config["query_pre_attn_scalar"] = pre_attention_scalar(spec);
    config["attn_logit_softcapping"] = cap(spec.layer(0).attention.soft_cap);
    config["final_logit_softcapping"] = cap(spec.logits_soft_cap);
    write_layer_types(spec, config);
    return config;
  }

 protected:
  DecoderNames names() const override {
    DecoderNames names;
    names.mlp_norm = "pre_feedforward_layernorm";
    return names;
  }
};

const RegisterFamily registration(std::make_unique<Gemma2>());

}  // namespace
}  // namespace longhaul
