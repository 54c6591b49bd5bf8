// Cohere: one layer norm without bias for attention and MLP, which are parallel; rotary pairs side by side; scaled
// logits.
#include "model/family_decoder.h"

namespace longhaul {
namespace {

using nlohmann::ordered_json;

const DecoderDefaults defaults = {.vocab_size = 256000,
                                  .hidden_size = 8192,
                                  .intermediate_size = 22528,
                                  .layers = 40,
                                  .heads = 64,
                                  .kv_heads = 0,
                                  .max_positions = 8192,
                                  .norm = NormKind::layer_without_bias,
                                  .epsilon = 1e-5,
                                  .epsilon_key = "layer_norm_eps",
                                  .tied = true,
                                  .rope = {.theta = 500000.0}};

class Cohere : public DecoderFamily {
 public:
  std::string model_type() const override { return "cohere"; }
  std::string architecture() const override { return "CohereForCausalLM"; }

  TransformerSpec to_spec(ConfigReader& config) const override {
    TransformerSpec spec = read_decoder(config, defaults);
    LayerSpec& layer = spec.layers[0].layer;
    layer.attention.q_bias = layer.attention.k_bias = layer.attention.v_bias = layer.attention.o_bias =
        config.boolean("attention_bias", false);
    layer.branches = Branches::parallel_shared_norm;
    spec.logits_scale = config.number("logit_scale", 0.0625);
    return spec;
  }

  ordered_json to_config(const TransformerSpec& spec) const override {
    ordered_json config = write_decoder(spec, defaults);
    config["attention_bias"] = spec.layer(0).attention.q_bias;
    config["logit_scale"] = spec.logits_scale;
    config["use_qk_norm"] = false;
    return config;
  }

 protected:
  DecoderNames names() const override {
    DecoderNames names;
    names.paired = true;
    return names;
  }
};

const RegisterFamily registration(std::make_unique<Cohere>());

}  // namespace
}  // namespace longhaul
