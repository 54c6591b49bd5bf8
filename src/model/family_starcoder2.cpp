// Starcoder2: layer norms, a plain MLP, biases everywhere or nowhere, one window for all layers.
#include "model/family_decoder.h"

namespace longhaul {
namespace {

using nlohmann::ordered_json;

const DecoderDefaults defaults = {.vocab_size = 49152,
                                  .hidden_size = 3072,
                                  .intermediate_size = 12288,
                                  .layers = 30,
                                  .heads = 24,
                                  .kv_heads = 2,
                                  .max_positions = 4096,
                                  .norm = NormKind::layer,
                                  .epsilon = 1e-5,
                                  .epsilon_key = "norm_epsilon",
                                  .gated = false,
                                  .activation = "gelu_pytorch_tanh",
                                  .tied = true,
                                  .initializer_range = 0.018042};

class Starcoder2 : public DecoderFamily {
 public:
  std::string model_type() const override { return "starcoder2"; }
  std::string architecture() const override { return "Starcoder2ForCausalLM"; }

  TransformerSpec to_spec(ConfigReader& config) const override {
    TransformerSpec spec = read_decoder(config, defaults);
    LayerSpec& layer = spec.layers[0].layer;
    layer.attention.q_bias = layer.attention.k_bias = layer.attention.v_bias = layer.attention.o_bias = layer.mlp.bias =
        config.boolean("use_bias", true);
    read_window(config, spec);
    config.dropout("residual_dropout");
    config.dropout("embedding_dropout");
    return spec;
  }

  ordered_json to_config(const TransformerSpec& spec) const override {
    ordered_json config = write_decoder(spec, defaults);
    config["use_bias"] = spec.layer(0).mlp.bias;
    config["residual_dropout"] = config["embedding_dropout"] = 0.0;
    const std::int64_t window = spec.layer(0).attention.window;
    config["sliding_window"] = window ? ordered_json(window) : ordered_json(nullptr);
    return config;
  }

 protected:
  DecoderNames names() const override {
    DecoderNames names;
    names.up = "mlp.c_fc";
    names.down = "mlp.c_proj";
    return names;
  }
};

const RegisterFamily registration(std::make_unique<Starcoder2>());

}  // namespace
}  // namespace longhaul
