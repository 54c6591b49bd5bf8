// OLMo 2: norms behind the branches, and one norm over all queries and one over all keys of a token.
#include "model/family_decoder.h"

namespace longhaul {
namespace {

using nlohmann::ordered_json;

const DecoderDefaults defaults = {.vocab_size = 50304,
                                  .hidden_size = 4096,
                                  .intermediate_size = 11008,
                                  .kv_heads = 0,
                                  .max_positions = 2048,
                                  .epsilon = 1e-5};

class Olmo2 : public DecoderFamily {
 public:
  std::string model_type() const override { return "olmo2"; }
  std::string architecture() const override { return "Olmo2ForCausalLM"; }

  TransformerSpec to_spec(ConfigReader& config) const override {
    TransformerSpec spec = read_decoder(config, defaults);
    LayerSpec& layer = spec.layers[0].layer;
    layer.attention.q_bias = layer.attention.k_bias = layer.attention.v_bias = layer.attention.o_bias =
        config.boolean("attention_bias", false);
    layer.norm_placement = NormPlacement::post;
    layer.attention.qk_norm = true;
    layer.attention.qk_norm_span = QkNormSpan::projection;
    layer.attention.qk_norm_epsilon = layer.norm.epsilon;
    return spec;
  }

  ordered_json to_config(const TransformerSpec& spec) const override {
    ordered_json config = write_decoder(spec, defaults);
    config["attention_bias"] = spec.layer(0).attention.q_bias;
    return config;
  }
};

const RegisterFamily registration(std::make_unique<Olmo2>());

}  // namespace
}  // namespace longhaul
