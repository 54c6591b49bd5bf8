// GPT-2: layer norm, learned positions, plain MLP, biases everywhere, a tied head. Its projections are stored [in, out]
// and queries, keys and values in one tensor.
#include <fmt/format.h>

#include <cmath>

#include "model/family.h"

namespace longhaul {
namespace {

using nlohmann::ordered_json;

class Gpt2 : public Family {
 public:
  std::string model_type() const override { return "gpt2"; }
  std::string architecture() const override { return "GPT2LMHeadModel"; }
  int export_rank() const override { return 0; }

  TransformerSpec to_spec(ConfigReader& config) const override {
    TransformerSpec spec;
    spec.vocabulary = config.integer("vocab_size", 50257);
    spec.hidden_size = config.integer("n_embd", 768);
    spec.max_positions = config.integer("n_positions", 1024);
    spec.learned_positions = true;
    spec.initializer_range = config.number("initializer_range", 0.02);
    spec.tied_head = config.boolean("tie_word_embeddings", true);

    LayerSpec layer;
    AttentionSpec& attention = layer.attention;
    attention.heads = attention.kv_heads = config.integer("n_head", 12);
    if (spec.hidden_size % attention.heads != 0)
      config.refuse(
          fmt::format("n_embd is {}; it must be a multiple of n_head, which is {}", spec.hidden_size, attention.heads));
    attention.head_dim = spec.hidden_size / attention.heads;
    if (const auto given = config.optional_integer("head_dim"); given && *given != attention.head_dim)
      config.refuse(fmt::format("head_dim is {}; the family's heads have n_embd / n_head = {} dimensions", *given,
                                attention.head_dim));
    attention.q_bias = attention.k_bias = attention.v_bias = attention.o_bias = true;
    attention.scale =
        config.boolean("scale_attn_weights", true) ? 1 / std::sqrt(static_cast<double>(attention.head_dim)) : 1.0;
    layer.norm = {NormKind::layer, config.number("layer_norm_epsilon", 1e-5)};
    layer.mlp = {false, config.activation("activation_function", "gelu_new"),
                 config.integer("n_inner", 4 * spec.hidden_size), true};
    spec.final_norm = layer.norm;
    const bool by_index = config.boolean("scale_attn_by_inverse_layer_idx", false);
    const std::int64_t count = config.layer_count("n_layer", 12);
    const double scale = attention.scale;
    for (std::int64_t i = 0; i < count; ++i) {
      if (by_index) attention.scale = scale / static_cast<double>(i + 1);
      spec.layers.push_back({1, layer});
    }
    for (const char* key : {"resid_pdrop", "embd_pdrop", "attn_pdrop"}) config.dropout(key);
    // reorder_and_upcast_attn changes rounding only; n_ctx is an old name of n_positions; the rest is for other heads.
    config.ignore({"reorder_and_upcast_attn", "n_ctx", "summary_type", "summary_use_proj", "summary_activation",
                   "summary_proj_to_labels", "summary_first_dropout"});
    return spec;
  }

  ordered_json to_config(const TransformerSpec& spec) const override {
    const LayerSpec& layer = spec.layer(0);
    ordered_json config;
    config["vocab_size"] = spec.vocabulary;
    config["n_positions"] = spec.max_positions;
    config["n_embd"] = spec.hidden_size;
    config["n_layer"] = spec.layer_count();
    config["n_head"] = layer.attention.heads;
    config["n_inner"] = layer.mlp.size;
    config["activation_function"] =
        layer.mlp.activation == Activation::gelu_tanh ? "gelu_new" : activation_name(layer.mlp.activation);
    config["layer_norm_epsilon"] = layer.norm.epsilon;
    config["initializer_range"] = spec.initializer_range;
    config["tie_word_embeddings"] = spec.tied_head;
    config["scale_attn_weights"] = layer.attention.head_dim == 1 || layer.attention.scale != 1.0;
    config["scale_attn_by_inverse_layer_idx"] =
        spec.layer_count() > 1 && spec.layer(1).attention.scale != layer.attention.scale;
    for (const char* key : {"resid_pdrop", "embd_pdrop", "attn_pdrop"}) config[key] = 0.0;
    return config;
  }

  std::vector<WeightMapping> weights(const TransformerSpec& spec) const override {
    std::vector<WeightMapping> list;
    const std::int64_t e = spec.hidden_size;
    const auto add = [&](std::string parameter, const std::string& tensor, std::vector<std::int64_t> shape,
                         bool transposed = false, std::int64_t begin = 0) {
      // Files on the hub lack the prefix that GPT2LMHeadModel saves.
      list.push_back({std::move(parameter), {}, "transformer." + tensor, tensor, std::move(shape), transposed, begin});
    };
    const auto norm = [&](const std::string& ours, const std::string& theirs) {
      add(ours + ".weight", theirs + ".weight", {e});
      add(ours + ".bias", theirs + ".bias", {e});
    };
    add("embedding.tokens", "wte.weight", {spec.vocabulary, e});
    add("embedding.positions", "wpe.weight", {spec.max_positions, e});
    std::int64_t index = 0;
    for (const LayerSpec* layer : spec.each_layer()) {
      const std::string ours = fmt::format("layers.{}.", index), theirs = fmt::format("h.{}.", index);
      ++index;
      const std::int64_t f = layer->mlp.size;
      norm(ours + "attention_norm", theirs + "ln_1");
      std::int64_t part = 0;
      for (const char* name : {"q", "k", "v"}) {
        add(ours + "attention." + name + ".weight", theirs + "attn.c_attn.weight", {e, 3 * e}, true, part * e);
        add(ours + "attention." + name + ".bias", theirs + "attn.c_attn.bias", {3 * e}, false, part * e);
        ++part;
      }
      const auto projection = [&](const std::string& our_name, const std::string& tensor, std::int64_t in,
                                  std::int64_t out) {
        add(our_name + ".weight", tensor + ".weight", {in, out}, true);
        add(our_name + ".bias", tensor + ".bias", {out});
      };
      projection(ours + "attention.o", theirs + "attn.c_proj", e, e);
      norm(ours + "mlp_norm", theirs + "ln_2");
      projection(ours + "mlp.up", theirs + "mlp.c_fc", e, f);
      projection(ours + "mlp.down", theirs + "mlp.c_proj", f, e);
    }
    norm("final_norm", "ln_f");
    if (!spec.tied_head) list.push_back({"head.weight", {}, "lm_head.weight", "", {spec.vocabulary, e}, false, 0});
    return list;
  }

  bool ignores_tensor(std::string_view tensor, const TransformerSpec& spec) const override {
    return (spec.tied_head && tensor == "lm_head.weight") || tensor.ends_with(".attn.bias") ||
           tensor.ends_with(".attn.masked_bias");
  }
};

const RegisterFamily registration(std::make_unique<Gpt2>());

}  // namespace
}  // namespace longhaul
