// GLM-4 (0414): norms before and behind the branches, rotary pairs side by side in half of each head, gate and up in
// one tensor.
#include "model/family_decoder.h"

namespace longhaul {
namespace {

using nlohmann::ordered_json;

const DecoderDefaults defaults = {.vocab_size = 151552,
                                  .hidden_size = 4096,
                                  .intermediate_size = 13696,
                                  .layers = 40,
                                  .kv_heads = 2,
                                  .head_dim = 128,
                                  .max_positions = 131072,
                                  .epsilon = 0.00000015625,
                                  .rope = {.part = 0.5}};

class Glm4 : public DecoderFamily {
 public:
  std::string model_type() const override { return "glm4"; }
  std::string architecture() const override { return "Glm4ForCausalLM"; }

  TransformerSpec to_spec(ConfigReader& config) const override {
    TransformerSpec spec = read_decoder(config, defaults);
    LayerSpec& layer = spec.layers[0].layer;
    layer.norm_placement = NormPlacement::both;
    layer.attention.q_bias = layer.attention.k_bias = layer.attention.v_bias = config.boolean("attention_bias", true);
    return spec;
  }

  ordered_json to_config(const TransformerSpec& spec) const override {
    ordered_json config = write_decoder(spec, defaults);
    config["attention_bias"] = spec.layer(0).attention.q_bias;
    return config;
  }

 protected:
  DecoderNames names() const override {
    DecoderNames names;
    names.attention_post_norm = "post_self_attn_layernorm";
    names.mlp_post_norm = "post_mlp_layernorm";
    names.gate_up = "mlp.gate_up_proj";
    names.paired = true;
    return names;
  }
};

const RegisterFamily registration(std::make_unique<Glm4>());

}  // namespace
}  // namespace longhaul
