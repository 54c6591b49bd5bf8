// InternLM, code of its own beside its weights: Llama with biases on all four projections of attention.
#include "model/family_decoder.h"

namespace longhaul {
namespace {

using nlohmann::ordered_json;

const DecoderDefaults defaults = {
    .vocab_size = 103168, .hidden_size = 4096, .intermediate_size = 11008, .kv_heads = 0, .max_positions = 2048};

class InternLm : public DecoderFamily {
 public:
  std::string model_type() const override { return "internlm"; }
  std::string architecture() const override { return "InternLMForCausalLM"; }
  int export_rank() const override { return 2; }

  TransformerSpec to_spec(ConfigReader& config) const override {
    TransformerSpec spec = read_decoder(config, defaults);
    AttentionSpec& attention = spec.layers[0].layer.attention;
    attention.q_bias = attention.k_bias = attention.v_bias = attention.o_bias = config.boolean("bias", true);
    return spec;
  }

  ordered_json to_config(const TransformerSpec& spec) const override {
    ordered_json config = write_decoder(spec, defaults);
    config["bias"] = spec.layer(0).attention.q_bias;
    return config;
  }
};

const RegisterFamily registration(std::make_unique<InternLm>());

}  // namespace
}  // namespace longhaul
