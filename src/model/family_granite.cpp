// Granite: Llama with multipliers of embeddings, branches, scores and logits.
#include "model/family_decoder.h"

namespace longhaul {
namespace {

using nlohmann::ordered_json;

const DecoderDefaults defaults = {
    .vocab_size = 32000, .hidden_size = 4096, .intermediate_size = 11008, .kv_heads = 0, .max_positions = 2048};

class Granite : public DecoderFamily {
 public:
  std::string model_type() const override { return "granite"; }
  std::string architecture() const override { return "GraniteForCausalLM"; }

  TransformerSpec to_spec(ConfigReader& config) const override {
    TransformerSpec spec = read_decoder(config, defaults);
    LayerSpec& layer = spec.layers[0].layer;
    layer.attention.q_bias = layer.attention.k_bias = layer.attention.v_bias = layer.attention.o_bias =
        config.boolean("attention_bias", false);
    layer.mlp.bias = config.boolean("mlp_bias", false);
    layer.attention.scale = config.number("attention_multiplier", 1);
    layer.residual_multiplier = config.number("residual_multiplier", 1);
    spec.embedding_multiplier = config.number("embedding_multiplier", 1);
    spec.logits_scale = 1 / config.number("logits_scaling", 1);
    return spec;
  }

  ordered_json to_config(const TransformerSpec& spec) const override {
    ordered_json config = write_decoder(spec, defaults);
    config["attention_bias"] = spec.layer(0).attention.q_bias;
    config["mlp_bias"] = spec.layer(0).mlp.bias;
    config["attention_multiplier"] = spec.layer(0).attention.scale;
    config["residual_multiplier"] = spec.layer(0).residual_multiplier;
    config["embedding_multiplier"] = spec.embedding_multiplier;
    config["logits_scaling"] = reads_back_as(spec.logits_scale, 1 / spec.logits_scale, [](double x) { return 1 / x; });
    return config;
  }
};

const RegisterFamily registration(std::make_unique<Granite>());

}  // namespace
}  // namespace longhaul
