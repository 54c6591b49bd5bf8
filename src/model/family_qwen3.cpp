// Qwen3: Llama with an RMS norm on every query and key head, a head size of its own and windows per layer.
#include "model/family_decoder.h"

namespace longhaul {
namespace {

using nlohmann::ordered_json;

class Qwen3 : public Family {
 public:
  std::string model_type() const override { return "qwen3"; }
  std::string architecture() const override { return "Qwen3ForCausalLM"; }
  int export_rank() const override { return 0; }

  TransformerSpec to_spec(ConfigReader& config) const override {
    TransformerSpec spec = read_decoder(config, {.vocab_size = 151936,
                                                 .hidden_size = 4096,
                                                 .intermediate_size = 22016,
                                                 .kv_heads = 32,
                                                 .head_dim = 128,
                                                 .max_positions = 32768});
    AttentionSpec& attention = spec.layers[0].layer.attention;
    attention.q_bias = attention.k_bias = attention.v_bias = attention.o_bias = config.boolean("attention_bias", false);
    attention.qk_norm = true;
    attention.qk_norm_epsilon = spec.layers[0].layer.norm.epsilon;
    read_layer_windows(config, spec);
    return spec;
  }

  ordered_json to_config(const TransformerSpec& spec) const override {
    ordered_json config = write_decoder(spec);
    config["attention_bias"] = spec.layer(0).attention.q_bias;
    write_layer_windows(spec, config);
    config["attention_dropout"] = 0.0;
    return config;
  }

  std::vector<WeightMapping> weights(const TransformerSpec& spec) const override { return decoder_weights(spec); }
  bool ignores_tensor(std::string_view tensor, const TransformerSpec& spec) const override {
    return decoder_ignores_tensor(tensor, spec);
  }
};

const RegisterFamily registration(std::make_unique<Qwen3>());

}  // namespace
}  // namespace longhaul
