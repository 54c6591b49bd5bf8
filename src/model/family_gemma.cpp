// Gemma: norms by 1 + weight, embeddings times the root of the width, GELU by tanh, a tied head.
#include "model/family_decoder.h"

namespace longhaul {
namespace {

using nlohmann::ordered_json;

const DecoderDefaults defaults = {.vocab_size = 256000,
                                  .hidden_size = 3072,
                                  .intermediate_size = 24576,
                                  .layers = 28,
                                  .heads = 16,
                                  .kv_heads = 16,
                                  .head_dim = 256,
                                  .max_positions = 8192,
                                  .activation = "gelu_pytorch_tanh",
                                  .tied = true};

class Gemma : public DecoderFamily {
 public:
  std::string model_type() const override { return "gemma"; }
  std::string architecture() const override { return "GemmaForCausalLM"; }

  TransformerSpec to_spec(ConfigReader& config) const override {
    TransformerSpec spec = read_decoder(config, defaults);
    LayerSpec& layer = spec.layers[0].layer;
    layer.norm.unit_offset = spec.final_norm.unit_offset = true;
    spec.embedding_multiplier = std::sqrt(static_cast<double>(spec.hidden_size));
    layer.attention.q_bias = layer.attention.k_bias = layer.attention.v_bias = layer.attention.o_bias =
        config.boolean("attention_bias", false);
    if (config.raw("hidden_activation")) layer.mlp.activation = config.activation("hidden_activation", "");
    // Published files say gelu and mean its approximation, as transformers reads them.
    if (layer.mlp.activation == Activation::gelu) layer.mlp.activation = Activation::gelu_tanh;
    config.ignore({"hidden_activation"});
    return spec;
  }

  ordered_json to_config(const TransformerSpec& spec) const override {
    ordered_json config = write_decoder(spec, defaults);
    config["attention_bias"] = spec.layer(0).attention.q_bias;
    return config;
  }
};

const RegisterFamily registration(std::make_unique<Gemma>());

}  // namespace
}  // namespace longhaul
