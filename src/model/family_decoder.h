// Private to src/model: what the families share that are made like Llama (a norm before each branch or after it, RoPE,
// an MLP), however they name their parts.
#pragma once
#include "model/family.h"

namespace longhaul {

/// What a family's configuration class in transformers takes for keys that a file leaves out, and how it spells them.
struct DecoderDefaults {
  std::int64_t vocab_size, hidden_size, intermediate_size, layers = 32, heads = 32;
  std::int64_t kv_heads;      ///< 0: as many as query heads
  std::int64_t head_dim = 0;  ///< 0: hidden_size / heads
  std::int64_t max_positions;
  NormKind norm = NormKind::rms;
  double epsilon = 1e-6;
  const char* epsilon_key = "rms_norm_eps";
  bool gated = true;
  const char* activation = "silu";
  const char* activation_key = "hidden_act";
  bool tied = false;
  double initializer_range = 0.02;
  RopeKeys rope = {};
};

/// A spec with one group of equal layers, without biases, QK-norm or window; the caller adds what its family has.
TransformerSpec read_decoder(ConfigReader& config, const DecoderDefaults& defaults);

/// Splits the one group into single layers, to give each its own window. Groups are merged again later.
void split_layers(TransformerSpec& spec);

/// sliding_window: the same for all layers; null, or a missing key, none.
void read_window(ConfigReader& config, TransformerSpec& spec);
/// Windows per layer as Qwen states them: layer_types, or use_sliding_window, sliding_window and max_window_layers.
void read_layer_windows(ConfigReader& config, TransformerSpec& spec);
/// One entry of layer_types for each layer, true for those with a window; those of `otherwise` when the file has no
/// list.
std::vector<bool> sliding_layers(ConfigReader& config, const TransformerSpec& spec, std::vector<bool> otherwise);
void write_layer_windows(const TransformerSpec& spec, nlohmann::ordered_json& config);
/// layer_types and sliding_window of the layers that have one.
void write_layer_types(const TransformerSpec& spec, nlohmann::ordered_json& config);

/// The keys that read_decoder reads, by the first layer.
nlohmann::ordered_json write_decoder(const TransformerSpec& spec, const DecoderDefaults& defaults);
/// The same for families that spell them as Llama.
nlohmann::ordered_json write_decoder(const TransformerSpec& spec);

/// Names of the tensors, as Llama has them. Parts of a layer follow "ROOT LAYERS.{i}."; weights and biases have their
/// usual ends.
struct DecoderNames {
  std::string root = "model.", layers = "layers", tokens = "embed_tokens", final_norm = "norm";
  std::string head = "lm_head", other_head = {};  ///< whole names; another name that files use
  std::string attention_norm = "input_layernorm", attention_post_norm = "post_attention_layernorm";
  std::string mlp_norm = "post_attention_layernorm", mlp_post_norm = "post_feedforward_layernorm";
  std::string q = "self_attn.q_proj", k = "self_attn.k_proj", v = "self_attn.v_proj", o = "self_attn.o_proj";
  std::string q_norm = "self_attn.q_norm", k_norm = "self_attn.k_norm";
  std::string gate = "mlp.gate_proj", up = "mlp.up_proj", down = "mlp.down_proj";
  /// Not empty: queries, keys and values are one tensor: all queries, all keys, all values, or for each KV head its
  /// queries, its key and its value.
  std::string qkv = {};
  bool by_kv_head = false;
  std::string gate_up = {};  ///< not empty: gate and then up are one tensor
  bool paired = false;       ///< rotary pairs lie side by side
};

/// A mapping for every parameter that the spec has, in any order.
std::vector<WeightMapping> decoder_weights(const TransformerSpec& spec, const DecoderNames& names = {});
bool decoder_ignores_tensor(std::string_view tensor, const TransformerSpec& spec);

/// Most of a family whose names and defaults differ and nothing else of the translation of weights.
class DecoderFamily : public Family {
 public:
  std::vector<WeightMapping> weights(const TransformerSpec& spec) const override {
    return decoder_weights(spec, names());
  }
  bool ignores_tensor(std::string_view tensor, const TransformerSpec& spec) const override {
    return decoder_ignores_tensor(tensor, spec) || (spec.tied_head && tensor == names().head + ".weight");
  }

 protected:
  virtual DecoderNames names() const { return {}; }
};

}  // namespace longhaul
