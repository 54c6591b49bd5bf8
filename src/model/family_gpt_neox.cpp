// GPT-NeoX: layer norms, parallel branches with a norm each or sequential ones, a quarter of each head turns, queries,
// keys and values in one tensor, by head.
#include <fmt/format.h>

#include "model/family_decoder.h"

namespace longhaul {
namespace {

using nlohmann::ordered_json;

const DecoderDefaults defaults = {.vocab_size = 50432,
                                  .hidden_size = 6144,
                                  .intermediate_size = 24576,
                                  .layers = 44,
                                  .heads = 64,
                                  .kv_heads = 0,
                                  .max_positions = 2048,
                                  .norm = NormKind::layer,
                                  .epsilon = 1e-5,
                                  .epsilon_key = "layer_norm_eps",
                                  .gated = false,
                                  .activation = "gelu",
                                  .rope = {.theta_key = "rotary_emb_base", .part_key = "rotary_pct", .part = 0.25}};

class GptNeoX : public DecoderFamily {
 public:
  std::string model_type() const override { return "gpt_neox"; }
  std::string architecture() const override { return "GPTNeoXForCausalLM"; }

  TransformerSpec to_spec(ConfigReader& config) const override {
    TransformerSpec spec = read_decoder(config, defaults);
    LayerSpec& layer = spec.layers[0].layer;
    if (config.boolean("use_parallel_residual", true)) layer.branches = Branches::parallel;
    layer.attention.q_bias = layer.attention.k_bias = layer.attention.v_bias = layer.attention.o_bias =
        config.boolean("attention_bias", true);
    layer.mlp.bias = true;
    if (layer.attention.kv_heads != layer.attention.heads)
      config.refuse(fmt::format("num_key_value_heads is {}; the family has as many as query heads, {}",
                                layer.attention.kv_heads, layer.attention.heads));
    config.dropout("hidden_dropout");
    config.ignore({"classifier_dropout", "is_decoder"});
    return spec;
  }

  ordered_json to_config(const TransformerSpec& spec) const override {
    ordered_json config = write_decoder(spec, defaults);
    config["attention_bias"] = spec.layer(0).attention.q_bias;
    config["use_parallel_residual"] = spec.layer(0).branches == Branches::parallel;
    config["hidden_dropout"] = 0.0;
    config.erase("head_dim");  // which transformers does not read here
    return config;
  }

  bool ignores_tensor(std::string_view tensor, const TransformerSpec& spec) const override {
    return DecoderFamily::ignores_tensor(tensor, spec) || tensor.ends_with(".attention.bias") ||
           tensor.ends_with(".attention.masked_bias");
  }

 protected:
  DecoderNames names() const override {
    DecoderNames names;
    names.root = "gpt_neox.";
    names.tokens = "embed_in";
    names.final_norm = "final_layer_norm";
    names.head = "embed_out";
    names.other_head = "lm_head";
    names.qkv = "attention.query_key_value";
    names.by_kv_head = true;
    names.o = "attention.dense";
    names.up = "mlp.dense_h_to_4h";
    names.down = "mlp.dense_4h_to_h";
    return names;
  }
};

const RegisterFamily registration(std::make_unique<GptNeoX>());

}  // namespace
}  // namespace longhaul
