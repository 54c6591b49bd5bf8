#include "model/family_decoder.h"

#include <cmath>

#include "base/error.h"

namespace longhaul {

using nlohmann::json;
using nlohmann::ordered_json;

TransformerSpec read_decoder(ConfigReader& config, const DecoderDefaults& defaults) {
  TransformerSpec spec;
  spec.vocabulary = config.integer("vocab_size", defaults.vocab_size);
  spec.hidden_size = config.integer("hidden_size", defaults.hidden_size);
  spec.max_positions = config.integer("max_position_embeddings", defaults.max_positions);
  spec.initializer_range = config.number("initializer_range", 0.02);
  spec.tied_head = config.boolean("tie_word_embeddings", false);

  LayerGroup group;
  group.repeat = config.layer_count("num_hidden_layers", defaults.layers);
  LayerSpec& layer = group.layer;
  AttentionSpec& attention = layer.attention;
  attention.heads = config.integer("num_attention_heads", defaults.heads);
  // A missing key is the family's default; null is as many as query heads.
  const json* kv_heads = config.raw("num_key_value_heads");
  const std::int64_t kv_default = !kv_heads && config.holds("num_key_value_heads") ? 0 : defaults.kv_heads;
  attention.kv_heads = config.integer("num_key_value_heads", kv_default == 0 ? attention.heads : kv_default);
  if (config.raw("head_dim") || defaults.head_dim)
    attention.head_dim = config.integer("head_dim", defaults.head_dim);
  else
    attention.head_dim = spec.hidden_size / attention.heads;
  attention.scale = 1 / std::sqrt(static_cast<double>(attention.head_dim));
  if (attention.heads % attention.kv_heads != 0)
    config.refuse(fmt::format("num_attention_heads is {}; it must be a multiple of num_key_value_heads, which is {}",
                              attention.heads, attention.kv_heads));
  layer.rope = config.rope(attention.head_dim, spec.max_positions);
  layer.norm = {NormKind::rms, config.number("rms_norm_eps", 1e-6)};
  layer.mlp = {true, config.activation("hidden_act", "silu"),
               config.integer("intermediate_size", defaults.intermediate_size), false};
  spec.final_norm = layer.norm;
  spec.layers = {group};
  config.dropout("attention_dropout");
  config.ignore({"pretraining_tp"});  // splits products into parts; the result is the same
  return spec;
}

void split_layers(TransformerSpec& spec) {
  const std::vector<LayerGroup> groups = std::move(spec.layers);
  spec.layers.clear();
  for (const LayerGroup& group : groups)
    for (std::int64_t i = 0; i < group.repeat; ++i) spec.layers.push_back({1, group.layer});
}

void read_layer_windows(ConfigReader& config, TransformerSpec& spec) {
  const bool used = config.boolean("use_sliding_window", false);
  // The default of the configuration class for a missing key; null turns windows off.
  const json* given = config.raw("sliding_window");
  const std::int64_t window = given || !config.holds("sliding_window") ? config.integer("sliding_window", 4096) : 0;
  const std::int64_t first = config.integer("max_window_layers", 28, 0);
  const json* types = config.raw("layer_types");
  split_layers(spec);
  if (types && (!types->is_array() || types->size() != spec.layers.size()))
    config.refuse(fmt::format("layer_types must be a list with one entry for each of {} layers", spec.layers.size()));
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    bool sliding = used && static_cast<std::int64_t>(i) >= first;
    if (types) {
      const json& type = (*types)[i];
      if (type != "full_attention" && type != "sliding_attention")
        config.refuse(fmt::format("layer_types[{}] is {}; supported are \"full_attention\", \"sliding_attention\"", i,
                                  type.dump()));
      sliding = type == "sliding_attention";
      if (sliding && !(used && window))
        config.refuse(
            fmt::format("layer_types[{}] is \"sliding_attention\" but use_sliding_window is {} and "
                        "sliding_window is {}",
                        i, used, window ? std::to_string(window) : "null"));
    }
    spec.layers[i].layer.attention.window = sliding ? window : 0;
  }
}

void write_layer_windows(const TransformerSpec& spec, ordered_json& config) {
  std::int64_t window = 0;
  ordered_json types = ordered_json::array();
  for (const LayerSpec* layer : spec.each_layer()) {
    const std::int64_t own = layer->attention.window;
    if (own) window = own;
    types.push_back(own ? "sliding_attention" : "full_attention");
  }
  config["use_sliding_window"] = window != 0;
  config["sliding_window"] = window ? ordered_json(window) : ordered_json(nullptr);
  // For versions of transformers that know no layer_types.
  std::int64_t first = 0;
  while (first < spec.layer_count() && spec.layer(first).attention.window == 0) ++first;
  config["max_window_layers"] = first;
  config["layer_types"] = types;
}

ordered_json write_decoder(const TransformerSpec& spec) {
  const LayerSpec& layer = spec.layer(0);
  ordered_json config;
  config["vocab_size"] = spec.vocabulary;
  config["hidden_size"] = spec.hidden_size;
  config["intermediate_size"] = layer.mlp.size;
  config["num_hidden_layers"] = spec.layer_count();
  config["num_attention_heads"] = layer.attention.heads;
  config["num_key_value_heads"] = layer.attention.kv_heads;
  config["head_dim"] = layer.attention.head_dim;
  config["hidden_act"] = activation_name(layer.mlp.activation);
  config["max_position_embeddings"] = spec.max_positions;
  config["initializer_range"] = spec.initializer_range;
  config["rms_norm_eps"] = layer.norm.epsilon;
  config["tie_word_embeddings"] = spec.tied_head;
  write_rope(layer.rope, config);
  return config;
}

std::vector<WeightMapping> decoder_weights(const TransformerSpec& spec) {
  std::vector<WeightMapping> list;
  const std::int64_t e = spec.hidden_size;
  const auto add = [&](std::string parameter, std::string tensor, std::vector<std::int64_t> shape) {
    list.push_back({std::move(parameter), {}, std::move(tensor), "", std::move(shape), false, 0});
  };
  add("embedding.tokens", "model.embed_tokens.weight", {spec.vocabulary, e});
  std::int64_t index = 0;
  for (const LayerSpec* layer : spec.each_layer()) {
    const std::string ours = fmt::format("layers.{}.", index), theirs = fmt::format("model.layers.{}.", index);
    ++index;
    const AttentionSpec& a = layer->attention;
    const std::int64_t queries = a.heads * a.head_dim, keys = a.kv_heads * a.head_dim, f = layer->mlp.size;
    add(ours + "attention_norm.weight", theirs + "input_layernorm.weight", {e});
    struct Projection {
      const char* name;
      std::int64_t out, in;
      bool bias;
    };
    for (const Projection& p : {Projection{"q", queries, e, a.q_bias}, Projection{"k", keys, e, a.k_bias},
                                Projection{"v", keys, e, a.v_bias}, Projection{"o", e, queries, a.o_bias}}) {
      const std::string our_name = ours + "attention." + p.name, tensor = theirs + "self_attn." + p.name + "_proj";
      add(our_name + ".weight", tensor + ".weight", {p.out, p.in});
      if (p.bias) add(our_name + ".bias", tensor + ".bias", {p.out});
    }
    if (a.qk_norm)
      for (const char* name : {"q_norm", "k_norm"})
        add(ours + "attention." + name + ".weight", theirs + "self_attn." + name + ".weight", {a.head_dim});
    add(ours + "mlp_norm.weight", theirs + "post_attention_layernorm.weight", {e});
    for (const Projection& p : {Projection{"gate", f, e, layer->mlp.bias}, Projection{"up", f, e, layer->mlp.bias},
                                Projection{"down", e, f, layer->mlp.bias}}) {
      const std::string our_name = ours + "mlp." + p.name, tensor = theirs + "mlp." + p.name + "_proj";
      add(our_name + ".weight", tensor + ".weight", {p.out, p.in});
      if (p.bias) add(our_name + ".bias", tensor + ".bias", {p.out});
    }
  }
  add("final_norm.weight", "model.norm.weight", {e});
  if (!spec.tied_head) add("head.weight", "lm_head.weight", {spec.vocabulary, e});
  return list;
}

bool decoder_ignores_tensor(std::string_view tensor, const TransformerSpec& spec) {
  return (spec.tied_head && tensor == "lm_head.weight") || tensor.ends_with(".rotary_emb.inv_freq");
}

}  // namespace longhaul
