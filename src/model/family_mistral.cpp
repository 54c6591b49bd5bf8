// Mistral: Llama without biases, with one sliding window for all layers; null: none.
#include "model/family_decoder.h"

namespace longhaul {
namespace {

using nlohmann::ordered_json;

class Mistral : public Family {
 public:
  std::string model_type() const override { return "mistral"; }
  std::string architecture() const override { return "MistralForCausalLM"; }
  int export_rank() const override { return 0; }

  TransformerSpec to_spec(ConfigReader& config) const override {
    TransformerSpec spec = read_decoder(
        config,
        {.vocab_size = 32000, .hidden_size = 4096, .intermediate_size = 14336, .kv_heads = 8, .max_positions = 131072});
    // The default of a missing key is a window; null is none.
    if (config.raw("sliding_window") || !config.holds("sliding_window"))
      spec.layers[0].layer.attention.window = config.integer("sliding_window", 4096);
    return spec;
  }

  ordered_json to_config(const TransformerSpec& spec) const override {
    ordered_json config = write_decoder(spec);
    const std::int64_t window = spec.layer(0).attention.window;
    config["sliding_window"] = window ? ordered_json(window) : ordered_json(nullptr);
    config["attention_dropout"] = 0.0;
    return config;
  }

  std::vector<WeightMapping> weights(const TransformerSpec& spec) const override { return decoder_weights(spec); }
  bool ignores_tensor(std::string_view tensor, const TransformerSpec& spec) const override {
    return decoder_ignores_tensor(tensor, spec);
  }
};

const RegisterFamily registration(std::make_unique<Mistral>());

}  // namespace
}  // namespace longhaul
