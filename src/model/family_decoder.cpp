#include "model/family_decoder.h"

#include <cmath>

#include "base/error.h"

namespace longhaul {

using nlohmann::json;
using nlohmann::ordered_json;
namespace {

/// What part of a head turns, such that reading it back gives the same number of dimensions.
double rotary_part(const LayerSpec& layer) {
  const std::int64_t dim = layer.attention.head_dim, turned = layer.rope.rotary_dim;
  double part = static_cast<double>(turned) / static_cast<double>(dim);
  if (static_cast<std::int64_t>(static_cast<double>(dim) * part) < turned) part = std::nextafter(part, 2.0);
  return part;
}

}  // namespace

TransformerSpec read_decoder(ConfigReader& config, const DecoderDefaults& defaults) {
  TransformerSpec spec;
  spec.vocabulary = config.integer("vocab_size", defaults.vocab_size);
  spec.hidden_size = config.integer("hidden_size", defaults.hidden_size);
  spec.max_positions = config.integer("max_position_embeddings", defaults.max_positions);
  spec.initializer_range = config.number("initializer_range", defaults.initializer_range);
  spec.tied_head = config.boolean("tie_word_embeddings", defaults.tied);

  LayerGroup group;
  group.repeat = config.layer_count("num_hidden_layers", defaults.layers);
  LayerSpec& layer = group.layer;
  AttentionSpec& attention = layer.attention;
  attention.heads = config.integer("num_attention_heads", defaults.heads);
  // A missing key is the family's default; null is as many as query heads.
  const json* kv_heads = config.raw("num_key_value_heads");
  const std::int64_t kv_default = !kv_heads && config.holds("num_key_value_heads") ? 0 : defaults.kv_heads;
  attention.kv_heads = config.integer("num_key_value_heads", kv_default == 0 ? attention.heads : kv_default);
  if (attention.heads % attention.kv_heads != 0)
    config.refuse(fmt::format("num_attention_heads is {}; it must be a multiple of num_key_value_heads, which is {}",
                              attention.heads, attention.kv_heads));
  if (config.raw("head_dim") || defaults.head_dim)
    attention.head_dim = config.integer("head_dim", defaults.head_dim);
  else if (spec.hidden_size % attention.heads == 0)
    attention.head_dim = spec.hidden_size / attention.heads;
  else
    config.refuse(fmt::format(
        "hidden_size is {}, which is no multiple of num_attention_heads, {}; such a model states its head_dim",
        spec.hidden_size, attention.heads));
  attention.scale = 1 / std::sqrt(static_cast<double>(attention.head_dim));
  layer.rope = config.rope(attention.head_dim, spec.max_positions, defaults.rope);
  layer.norm = {defaults.norm, config.number(defaults.epsilon_key, defaults.epsilon)};
  layer.mlp = {defaults.gated, config.activation(defaults.activation_key, defaults.activation),
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

void read_window(ConfigReader& config, TransformerSpec& spec) {
  if (config.raw("sliding_window"))
    for (LayerGroup& group : spec.layers) group.layer.attention.window = config.integer("sliding_window", {});
}

std::vector<bool> sliding_layers(ConfigReader& config, const TransformerSpec& spec, std::vector<bool> otherwise) {
  const json* types = config.raw("layer_types");
  if (!types) return otherwise;
  const auto count = static_cast<std::size_t>(spec.layer_count());
  if (!types->is_array() || types->size() != count)
    config.refuse(fmt::format("layer_types must be a list with one entry for each of {} layers", count));
  std::vector<bool> sliding;
  for (std::size_t i = 0; i < count; ++i) {
    const json& type = (*types)[i];
    if (type != "full_attention" && type != "sliding_attention")
      config.refuse(fmt::format("layer_types[{}] is {}; supported are \"full_attention\", \"sliding_attention\"", i,
                                type.dump()));
    sliding.push_back(type == "sliding_attention");
  }
  return sliding;
}

void read_layer_windows(ConfigReader& config, TransformerSpec& spec) {
  const bool used = config.boolean("use_sliding_window", false);
  // The default of the configuration class for a missing key; null turns windows off.
  const json* given = config.raw("sliding_window");
  const std::int64_t window = given || !config.holds("sliding_window") ? config.integer("sliding_window", 4096) : 0;
  const std::int64_t first = config.integer("max_window_layers", 28, 0);
  split_layers(spec);
  std::vector<bool> by_number;
  for (std::int64_t i = 0; i < spec.layer_count(); ++i) by_number.push_back(used && i >= first);
  const std::vector<bool> sliding = sliding_layers(config, spec, by_number);
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    if (sliding[i] && !(used && window) && config.raw("layer_types"))
      config.refuse(
          fmt::format("layer_types[{}] is \"sliding_attention\" but use_sliding_window is {} and sliding_window is {}",
                      i, used, window ? std::to_string(window) : "null"));
    spec.layers[i].layer.attention.window = sliding[i] ? window : 0;
  }
}

void write_layer_types(const TransformerSpec& spec, ordered_json& config) {
  std::int64_t window = 0;
  ordered_json types = ordered_json::array();
  for (const LayerSpec* layer : spec.each_layer()) {
    const std::int64_t own = layer->attention.window;
    if (own) window = own;
    types.push_back(own ? "sliding_attention" : "full_attention");
  }
  config["sliding_window"] = window ? ordered_json(window) : ordered_json(nullptr);
  config["layer_types"] = types;
}

void write_layer_windows(const TransformerSpec& spec, ordered_json& config) {
  write_layer_types(spec, config);
  config["use_sliding_window"] = !config["sliding_window"].is_null();
  // For versions of transformers that know no layer_types.
  std::int64_t first = 0;
  while (first < spec.layer_count() && spec.layer(first).attention.window == 0) ++first;
  config["max_window_layers"] = first;
}

ordered_json write_decoder(const TransformerSpec& spec) {
  return write_decoder(spec,
                       {.vocab_size = 0, .hidden_size = 0, .intermediate_size = 0, .kv_heads = 0, .max_positions = 0});
}

ordered_json write_decoder(const TransformerSpec& spec, const DecoderDefaults& defaults) {
  const LayerSpec& layer = spec.layer(0);
  ordered_json config;
  config["vocab_size"] = spec.vocabulary;
  config["hidden_size"] = spec.hidden_size;
  config["intermediate_size"] = layer.mlp.size;
  config["num_hidden_layers"] = spec.layer_count();
  config["num_attention_heads"] = layer.attention.heads;
  config["num_key_value_heads"] = layer.attention.kv_heads;
  config["head_dim"] = layer.attention.head_dim;
  config[defaults.activation_key] = activation_name(layer.mlp.activation);
  config["max_position_embeddings"] = spec.max_positions;
  config["initializer_range"] = spec.initializer_range;
  config[defaults.epsilon_key] = layer.norm.epsilon;
  config["tie_word_embeddings"] = spec.tied_head;
  write_rope(layer.rope, config);
  if (defaults.rope.part) config[defaults.rope.part_key] = rotary_part(layer);
  if (const ordered_json theta = config["rope_theta"]; defaults.rope.theta_key != std::string("rope_theta")) {
    config.erase("rope_theta");
    config[defaults.rope.theta_key] = theta;
  }
  config["attention_dropout"] = 0.0;
  return config;
}

namespace {

class WeightList {
 public:
  WeightList(const TransformerSpec& spec, const DecoderNames& names) : spec_(spec), names_(names) {}

  std::vector<WeightMapping> list() {
    const std::int64_t e = spec_.hidden_size;
    add("embedding.tokens.", names_.root + names_.tokens + ".", {spec_.vocabulary, e}, "weight");
    std::int64_t index = 0;
    for (const LayerSpec* layer : spec_.each_layer()) {
      add_layer(*layer, fmt::format("layers.{}.", index), fmt::format("{}{}.{}.", names_.root, names_.layers, index));
      ++index;
    }
    norm("final_norm.", names_.root + names_.final_norm + ".", spec_.final_norm);
    if (!spec_.tied_head) add("head.", names_.head + ".", {spec_.vocabulary, e}, "weight").other_name = other_head();
    if (spec_.head_bias) add("head.", names_.head + ".", {spec_.vocabulary}, "bias");
    return std::move(list_);
  }

 private:
  std::string other_head() const { return names_.other_head.empty() ? "" : names_.other_head + ".weight"; }

  WeightMapping& add(const std::string& ours, const std::string& theirs, std::vector<std::int64_t> shape,
                     const std::string& kind) {
    // embedding.tokens has no end of its own.
    const std::string name = ours == "embedding.tokens." ? "embedding.tokens" : ours + kind;
    WeightMapping mapping;
    mapping.parameter = name;
    mapping.tensor = theirs + kind;
    mapping.tensor_shape = std::move(shape);
    return list_.emplace_back(std::move(mapping));
  }
  void norm(const std::string& ours, const std::string& theirs, const NormSpec& spec) {
    add(ours, theirs, {spec_.hidden_size}, "weight");
    if (spec.kind == NormKind::layer) add(ours, theirs, {spec_.hidden_size}, "bias");
  }
  /// A projection, and its bias: both get what `place` says of where their rows lie.
  template <typename Place>
  void projection(const std::string& ours, const std::string& theirs, std::int64_t out, std::int64_t in, bool bias,
                  Place place) {
    place(add(ours, theirs, {out, in}, "weight"));
    if (bias) place(add(ours, theirs, {out}, "bias"));
  }

  void add_layer(const LayerSpec& layer, const std::string& ours, const std::string& theirs) {
    const AttentionSpec& a = layer.attention;
    const std::int64_t e = spec_.hidden_size, d = a.head_dim, queries = a.heads * d, keys = a.kv_heads * d,
                       f = layer.mlp.size;
    const bool before = layer.norm_placement != NormPlacement::post, after = layer.norm_placement != NormPlacement::pre;
    if (before) norm(ours + "attention_norm.", theirs + names_.attention_norm + ".", layer.norm);
    if (before && layer.branches != Branches::parallel_shared_norm)
      norm(ours + "mlp_norm.", theirs + names_.mlp_norm + ".", layer.norm);
    if (after) norm(ours + "attention_post_norm.", theirs + names_.attention_post_norm + ".", layer.norm);
    if (after) norm(ours + "mlp_post_norm.", theirs + names_.mlp_post_norm + ".", layer.norm);

    struct Part {
      const char* name;
      const std::string& tensor;
      std::int64_t rows;
      bool bias, turns;
    };
    const std::int64_t group = a.heads / a.kv_heads;
    std::int64_t begin = 0;
    for (const Part& part : {Part{"q", names_.q, queries, a.q_bias, true}, Part{"k", names_.k, keys, a.k_bias, true},
                             Part{"v", names_.v, keys, a.v_bias, false}}) {
      const bool fused = !names_.qkv.empty();
      const std::int64_t block = names_.by_kv_head ? part.rows / a.kv_heads : part.rows;
      projection(ours + "attention." + part.name + ".", theirs + (fused ? names_.qkv : part.tensor) + ".",
                 fused ? queries + 2 * keys : part.rows, e, part.bias, [&](WeightMapping& mapping) {
                   if (fused) mapping.begin = begin;
                   if (fused && names_.by_kv_head) {
                     mapping.block = block;
                     mapping.stride = (group + 2) * d;
                   }
                   if (names_.paired && part.turns && layer.rope.kind != RopeKind::none) {
                     mapping.head_rows = d;
                     mapping.paired = layer.rope.rotary_dim;
                   }
                 });
      begin += block;
    }
    const auto whole = [](WeightMapping&) {};
    projection(ours + "attention.o.", theirs + names_.o + ".", e, queries, a.o_bias, whole);
    if (a.qk_norm)
      for (const bool is_query : {true, false})
        add(ours + (is_query ? "attention.q_norm." : "attention.k_norm."),
            theirs + (is_query ? names_.q_norm : names_.k_norm) + ".",
            {a.qk_norm_span == QkNormSpan::head ? d
             : is_query                         ? queries
                                                : keys},
            "weight");

    const bool fused = !names_.gate_up.empty() && layer.mlp.gated;
    const std::int64_t rows = fused ? 2 * f : f;
    if (layer.mlp.gated)
      projection(ours + "mlp.gate.", theirs + (fused ? names_.gate_up : names_.gate) + ".", rows, e, layer.mlp.bias,
                 whole);
    projection(ours + "mlp.up.", theirs + (fused ? names_.gate_up : names_.up) + ".", rows, e, layer.mlp.bias,
               [&](WeightMapping& mapping) { mapping.begin = fused ? f : 0; });
    projection(ours + "mlp.down.", theirs + names_.down + ".", e, f, layer.mlp.bias, whole);
  }

  const TransformerSpec& spec_;
  const DecoderNames& names_;
  std::vector<WeightMapping> list_;
};

}  // namespace

std::vector<WeightMapping> decoder_weights(const TransformerSpec& spec, const DecoderNames& names) {
  return WeightList(spec, names).list();
}

bool decoder_ignores_tensor(std::string_view tensor, const TransformerSpec& spec) {
  return (spec.tied_head && tensor == "lm_head.weight") || tensor.ends_with(".rotary_emb.inv_freq");
}

}  // namespace longhaul
