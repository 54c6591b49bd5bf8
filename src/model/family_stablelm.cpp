// StableLM: layer norms, a quarter of each head turns, sequential branches or parallel ones with one norm.
#include "model/family_decoder.h"

namespace longhaul {
namespace {

using nlohmann::ordered_json;

const DecoderDefaults defaults = {.vocab_size = 50304,
                                  .hidden_size = 2560,
                                  .intermediate_size = 6912,
                                  .kv_heads = 32,
                                  .max_positions = 4096,
                                  .norm = NormKind::layer,
                                  .epsilon = 1e-5,
                                  .epsilon_key = "layer_norm_eps",
                                  .rope = {.part = 0.25}};

class StableLm : public DecoderFamily {
 public:
  std::string model_type() const override { return "stablelm"; }
  std::string architecture() const override { return "StableLmForCausalLM"; }

  TransformerSpec to_spec(ConfigReader& config) const override {
    TransformerSpec spec = read_decoder(config, defaults);
    LayerSpec& layer = spec.layers[0].layer;
    layer.attention.q_bias = layer.attention.k_bias = layer.attention.v_bias = config.boolean("use_qkv_bias", false);
    if (config.boolean("use_parallel_residual", false)) layer.branches = Branches::parallel_shared_norm;
    config.dropout("hidden_dropout");
    return spec;
  }

  ordered_json to_config(const TransformerSpec& spec) const override {
    ordered_json config = write_decoder(spec, defaults);
    config["use_qkv_bias"] = spec.layer(0).attention.q_bias;
    config["use_parallel_residual"] = spec.layer(0).branches != Branches::sequential;
    config["hidden_dropout"] = 0.0;
    config.erase("head_dim");  // which transformers does not read here
    return config;
  }
};

const RegisterFamily registration(std::make_unique<StableLm>());

}  // namespace
}  // namespace longhaul
