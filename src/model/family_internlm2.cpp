// InternLM2, code of its own beside its weights: Llama with queries, keys and values in one tensor, by KV head.
#include "model/family_decoder.h"

namespace longhaul {
namespace {

using nlohmann::ordered_json;

const DecoderDefaults defaults = {
    .vocab_size = 103168, .hidden_size = 4096, .intermediate_size = 11008, .kv_heads = 0, .max_positions = 2048};

class InternLm2 : public DecoderFamily {
 public:
  std::string model_type() const override { return "internlm2"; }
  std::string architecture() const override { return "InternLM2ForCausalLM"; }
  int export_rank() const override { return 2; }

  TransformerSpec to_spec(ConfigReader& config) const override {
    TransformerSpec spec = read_decoder(config, defaults);
    LayerSpec& layer = spec.layers[0].layer;
    layer.attention.q_bias = layer.attention.k_bias = layer.attention.v_bias = layer.attention.o_bias =
        config.boolean("bias", true);
    return spec;
  }

  ordered_json to_config(const TransformerSpec& spec) const override {
    ordered_json config = write_decoder(spec, defaults);
    config["bias"] = spec.layer(0).attention.q_bias;
    return config;
  }

 protected:
  DecoderNames names() const override {
    DecoderNames names;
    names.tokens = "tok_embeddings";
    names.attention_norm = "attention_norm";
    names.mlp_norm = "ffn_norm";
    names.qkv = "attention.wqkv";
    names.by_kv_head = true;
    names.o = "attention.wo";
    names.gate = "feed_forward.w1";
    names.up = "feed_forward.w3";
    names.down = "feed_forward.w2";
    names.head = "output";
    return names;
  }
};

const RegisterFamily registration(std::make_unique<InternLm2>());

}  // namespace
}  // namespace longhaul
