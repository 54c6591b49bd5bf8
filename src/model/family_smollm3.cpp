// SmolLM3: Llama without position encoding in some layers, which may have windows.
#include <fmt/format.h>

#include "model/family_decoder.h"

namespace longhaul {
namespace {

using nlohmann::ordered_json;

const DecoderDefaults defaults = {.vocab_size = 128256,
                                  .hidden_size = 2048,
                                  .intermediate_size = 11008,
                                  .layers = 36,
                                  .heads = 16,
                                  .kv_heads = 4,
                                  .max_positions = 32768,
                                  .tied = true,
                                  .rope = {.theta = 2000000.0}};

/// By no_rope_layers, 1 for each layer that has RoPE, or every layer but each no_rope_layer_interval-th.
std::vector<bool> layers_with_rope(ConfigReader& config, const TransformerSpec& spec) {
  const nlohmann::json* given = config.raw("no_rope_layers");
  const std::int64_t interval = config.raw("no_rope_layer_interval") ? config.integer("no_rope_layer_interval", {}) : 4;
  const std::int64_t count = spec.layer_count();
  if (given && (!given->is_array() || static_cast<std::int64_t>(given->size()) != count))
    config.refuse(fmt::format("no_rope_layers must be a list with 0 or 1 for each of {} layers", count));
  std::vector<bool> turned;
  for (std::int64_t i = 0; i < count; ++i) {
    if (!given) {
      turned.push_back((i + 1) % interval != 0);
      continue;
    }
    const nlohmann::json& one = (*given)[static_cast<std::size_t>(i)];
    if (one != 0 && one != 1) config.refuse(fmt::format("no_rope_layers[{}] is {}; it must be 0 or 1", i, one.dump()));
    turned.push_back(one == 1);
  }
  return turned;
}

class SmolLm3 : public DecoderFamily {
 public:
  std::string model_type() const override { return "smollm3"; }
  std::string architecture() const override { return "SmolLM3ForCausalLM"; }

  TransformerSpec to_spec(ConfigReader& config) const override {
    TransformerSpec spec = read_decoder(config, defaults);
    LayerSpec& layer = spec.layers[0].layer;
    layer.attention.q_bias = layer.attention.k_bias = layer.attention.v_bias = layer.attention.o_bias =
        config.boolean("attention_bias", false);
    layer.mlp.bias = config.boolean("mlp_bias", false);
    const std::vector<bool> turned = layers_with_rope(config, spec);
    const std::int64_t window = config.boolean("use_sliding_window", false) && config.raw("sliding_window")
                                    ? config.integer("sliding_window", {})
                                    : 0;
    config.ignore({"sliding_window"});
    std::vector<bool> otherwise;
    for (const bool one : turned) otherwise.push_back(window && !one);
    const std::vector<bool> sliding = sliding_layers(config, spec, otherwise);
    split_layers(spec);
    for (std::size_t i = 0; i < spec.layers.size(); ++i) {
      if (!turned[i]) spec.layers[i].layer.rope = {};
      if (sliding[i]) spec.layers[i].layer.attention.window = window;
    }
    return spec;
  }

  ordered_json to_config(const TransformerSpec& spec) const override {
    ordered_json config = write_decoder(spec, defaults);
    config["attention_bias"] = spec.layer(0).attention.q_bias;
    config["mlp_bias"] = spec.layer(0).mlp.bias;
    write_layer_types(spec, config);
    config["use_sliding_window"] = !config["sliding_window"].is_null();
    ordered_json turned = ordered_json::array();
    for (const LayerSpec* layer : spec.each_layer()) {
      turned.push_back(layer->rope.kind == RopeKind::none ? 0 : 1);
      if (layer->rope.kind != RopeKind::none) write_rope(layer->rope, config);
    }
    config["no_rope_layers"] = turned;
    return config;
  }
};

const RegisterFamily registration(std::make_unique<SmolLm3>());

}  // namespace
}  // namespace longhaul
