// GLM-4 (9B): Llama with rotary pairs side by side in half of each head, biases on q, k, v, gate and up in one tensor.
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

class Glm : public DecoderFamily {
 public:
  std::string model_type() const override { return "glm"; }
  std::string architecture() const override { return "GlmForCausalLM"; }

  TransformerSpec to_spec(ConfigReader& config) const override {
    TransformerSpec spec = read_decoder(config, defaults);
    LayerSpec& layer = spec.layers[0].layer;
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
    names.gate_up = "mlp.gate_up_proj";
    names.paired = true;
    return names;
  }
};

const RegisterFamily registration(std::make_unique<Glm>());

}  // namespace
}  // namespace longhaul
