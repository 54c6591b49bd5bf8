// MiniCPM, code of its own beside its weights: Llama with embeddings, branches and logits scaled by its width and
// depth.
#include "model/family_decoder.h"

namespace longhaul {
namespace {

using nlohmann::ordered_json;

const DecoderDefaults defaults = {.vocab_size = 32000,
                                  .hidden_size = 4096,
                                  .intermediate_size = 11008,
                                  .kv_heads = 0,
                                  .max_positions = 2048,
                                  .tied = true};

double branch(double scale_depth, const TransformerSpec& spec) {
  return scale_depth / std::sqrt(static_cast<double>(spec.layer_count()));
}

class MiniCpm : public DecoderFamily {
 public:
  std::string model_type() const override { return "minicpm"; }
  std::string architecture() const override { return "MiniCPMForCausalLM"; }
  int export_rank() const override { return 2; }

  TransformerSpec to_spec(ConfigReader& config) const override {
    TransformerSpec spec = read_decoder(config, defaults);
    LayerSpec& layer = spec.layers[0].layer;
    layer.attention.q_bias = layer.attention.k_bias = layer.attention.v_bias = layer.attention.o_bias =
        config.boolean("attention_bias", false);
    spec.embedding_multiplier = config.number("scale_emb", 1);
    layer.residual_multiplier = branch(config.number("scale_depth", 1), spec);
    spec.logits_scale = config.number("dim_model_base", 1) / static_cast<double>(spec.hidden_size);
    return spec;
  }

  ordered_json to_config(const TransformerSpec& spec) const override {
    ordered_json config = write_decoder(spec, defaults);
    config["attention_bias"] = spec.layer(0).attention.q_bias;
    config["scale_emb"] = spec.embedding_multiplier;
    const double depth = std::sqrt(static_cast<double>(spec.layer_count())),
                 width = static_cast<double>(spec.hidden_size);
    const double residual = spec.layer(0).residual_multiplier;
    config["scale_depth"] = reads_back_as(residual, residual * depth, [&](double x) { return branch(x, spec); });
    config["dim_model_base"] =
        reads_back_as(spec.logits_scale, spec.logits_scale * width, [&](double x) { return x / width; });
    return config;
  }
};

const RegisterFamily registration(std::make_unique<MiniCpm>());

}  // namespace
}  // namespace longhaul
