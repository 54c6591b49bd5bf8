// Ministral 3: Mistral with yarn, and queries that grow with their position.
#include <fmt/format.h>

#include "model/family_decoder.h"

namespace longhaul {
namespace {

using nlohmann::ordered_json;

const DecoderDefaults defaults = {
    .vocab_size = 131072,
    .hidden_size = 4096,
    .intermediate_size = 14336,
    .layers = 34,
    .kv_heads = 8,
    .head_dim = 128,
    .max_positions = 262144,
    .epsilon = 1e-5,
    .rope = {.theta = 1000000.0, .also = {"llama_4_scaling_beta", "original_max_position_embeddings"}}};

class Ministral3 : public DecoderFamily {
 public:
  std::string model_type() const override { return "ministral3"; }
  std::string architecture() const override { return "Ministral3ForCausalLM"; }

  TransformerSpec to_spec(ConfigReader& config) const override {
    // What transformers takes for a file that says nothing of RoPE.
    static const nlohmann::json usual = {{"rope_type", "yarn"},
                                         {"factor", 16.0},
                                         {"original_max_position_embeddings", 16384},
                                         {"beta_fast", 32.0},
                                         {"beta_slow", 1.0},
                                         {"mscale", 1.0},
                                         {"mscale_all_dim", 1.0},
                                         {"llama_4_scaling_beta", 0.1}};
    const nlohmann::json* given = config.raw("rope_scaling");
    if (!given) given = config.raw("rope_parameters");
    if (!given) given = &usual;
    DecoderDefaults own = defaults;
    own.rope.table = given;
    TransformerSpec spec = read_decoder(config, own);
    const auto number = [&](const char* key) {
      if (!given->contains(key) || !given->at(key).is_number())
        config.refuse(fmt::format("{} must be a number beside the other parameters of RoPE", key));
      return given->at(key).get<double>();
    };
    AttentionSpec& attention = spec.layers[0].layer.attention;
    attention.position_growth = number("llama_4_scaling_beta");
    if (attention.position_growth != 0) {
      const double length = number("original_max_position_embeddings");
      if (!(length >= 1 && length <= 2147483647))
        config.refuse(fmt::format("original_max_position_embeddings is {}; it must be a positive integer", length));
      attention.position_growth_length = static_cast<std::int64_t>(length);
    }
    read_window(config, spec);
    return spec;
  }

  ordered_json to_config(const TransformerSpec& spec) const override {
    ordered_json config = write_decoder(spec, defaults);
    const AttentionSpec& attention = spec.layer(0).attention;
    ordered_json rope =
        config["rope_scaling"].is_null() ? ordered_json{{"rope_type", "default"}} : config["rope_scaling"];
    rope["rope_theta"] = config["rope_theta"];
    rope["llama_4_scaling_beta"] = attention.position_growth;
    if (!rope.contains("original_max_position_embeddings"))
      rope["original_max_position_embeddings"] = attention.position_growth_length;
    config.erase("rope_scaling");
    config.erase("rope_theta");
    config["rope_parameters"] = rope;
    const std::int64_t window = spec.layer(0).attention.window;
    config["sliding_window"] = window ? ordered_json(window) : ordered_json(nullptr);
    return config;
  }
};

const RegisterFamily registration(std::make_unique<Ministral3>());

}  // namespace
}  // namespace longhaul
