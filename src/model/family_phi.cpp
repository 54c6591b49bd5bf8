// Phi: one layer norm for attention and MLP, which are parallel; half of each head turns; biases everywhere, on the
// head too.
#include "model/family_decoder.h"

namespace longhaul {
namespace {

using nlohmann::ordered_json;

const DecoderDefaults defaults = {.vocab_size = 51200,
                                  .hidden_size = 2048,
                                  .intermediate_size = 8192,
                                  .layers = 24,
                                  .kv_heads = 0,
                                  .max_positions = 2048,
                                  .norm = NormKind::layer,
                                  .epsilon = 1e-5,
                                  .epsilon_key = "layer_norm_eps",
                                  .gated = false,
                                  .activation = "gelu_new",
                                  .rope = {.part = 0.5}};

class Phi : public DecoderFamily {
 public:
  std::string model_type() const override { return "phi"; }
  std::string architecture() const override { return "PhiForCausalLM"; }

  TransformerSpec to_spec(ConfigReader& config) const override {
    TransformerSpec spec = read_decoder(config, defaults);
    LayerSpec& layer = spec.layers[0].layer;
    layer.branches = Branches::parallel_shared_norm;
    layer.attention.q_bias = layer.attention.k_bias = layer.attention.v_bias = layer.attention.o_bias = layer.mlp.bias =
        true;
    spec.head_bias = true;
    config.dropout("resid_pdrop");
    config.dropout("embd_pdrop");
    return spec;
  }

  ordered_json to_config(const TransformerSpec& spec) const override {
    ordered_json config = write_decoder(spec, defaults);
    config["resid_pdrop"] = config["embd_pdrop"] = 0.0;
    return config;
  }

 protected:
  DecoderNames names() const override {
    DecoderNames names;
    names.o = "self_attn.dense";
    names.up = "mlp.fc1";
    names.down = "mlp.fc2";
    names.final_norm = "final_layernorm";
    return names;
  }
};

const RegisterFamily registration(std::make_unique<Phi>());

}  // namespace
}  // namespace longhaul
