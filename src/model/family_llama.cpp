// Llama: RMS norm, RoPE, grouped queries, gated MLP; optional biases on all four attention projections
// (attention_bias) or on the MLP (mlp_bias).
#include <fmt/format.h>

#include "model/family_decoder.h"

namespace longhaul {
namespace {

using nlohmann::ordered_json;

class Llama : public Family {
 public:
  std::string model_type() const override { return "llama"; }
  std::string architecture() const override { return "LlamaForCausalLM"; }
  int export_rank() const override { return 0; }

  TransformerSpec to_spec(ConfigReader& config) const override {
    TransformerSpec spec = read_decoder(
        config,
        {.vocab_size = 32000, .hidden_size = 4096, .intermediate_size = 11008, .kv_heads = 0, .max_positions = 2048});
    AttentionSpec& attention = spec.layers[0].layer.attention;
    attention.q_bias = attention.k_bias = attention.v_bias = attention.o_bias = config.boolean("attention_bias", false);
    spec.layers[0].layer.mlp.bias = config.boolean("mlp_bias", false);
    return spec;
  }

  ordered_json to_config(const TransformerSpec& spec) const override {
    ordered_json config = write_decoder(spec);
    config["attention_bias"] = spec.layer(0).attention.q_bias;
    config["mlp_bias"] = spec.layer(0).mlp.bias;
    config["attention_dropout"] = 0.0;
    return config;
  }

  std::vector<WeightMapping> weights(const TransformerSpec& spec) const override { return decoder_weights(spec); }
  bool ignores_tensor(std::string_view tensor, const TransformerSpec& spec) const override {
    return decoder_ignores_tensor(tensor, spec);
  }
};

const RegisterFamily registration(std::make_unique<Llama>());

}  // namespace
}  // namespace longhaul
