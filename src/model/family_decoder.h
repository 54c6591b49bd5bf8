// Private to src/model: what the families with Llama's layout (RMS norm, RoPE, gated MLP) share.
#pragma once
#include "model/family.h"

namespace longhaul {

/// Defaults of the family's configuration class in transformers, for keys that a file leaves out.
struct DecoderDefaults {
  std::int64_t vocab_size, hidden_size, intermediate_size, layers = 32, heads = 32;
  std::int64_t kv_heads;      ///< 0: as many as query heads
  std::int64_t head_dim = 0;  ///< 0: hidden_size / heads
  std::int64_t max_positions;
};

/// A spec with one group of equal layers, without biases, QK-norm or window; the caller adds what its family has.
TransformerSpec read_decoder(ConfigReader& config, const DecoderDefaults& defaults);

/// Splits the one group into single layers, to give each its own window. Groups are merged again later.
void split_layers(TransformerSpec& spec);

/// Windows per layer as Qwen states them: layer_types, or use_sliding_window, sliding_window and max_window_layers.
void read_layer_windows(ConfigReader& config, TransformerSpec& spec);
void write_layer_windows(const TransformerSpec& spec, nlohmann::ordered_json& config);

/// The keys that read_decoder reads, by the first layer.
nlohmann::ordered_json write_decoder(const TransformerSpec& spec);

/// model.embed_tokens, model.layers.{i}.self_attn ... as Llama names them, with biases and QK-norm where the spec has
/// them.
std::vector<WeightMapping> decoder_weights(const TransformerSpec& spec);
bool decoder_ignores_tensor(std::string_view tensor, const TransformerSpec& spec);

}  // namespace longhaul
