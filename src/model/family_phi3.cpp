// Phi-3: Llama with queries, keys and values in one tensor and gate and up in another; longrope; part of a head may
// turn.
#include "model/family_decoder.h"

namespace longhaul {
namespace {

using nlohmann::ordered_json;

const DecoderDefaults defaults = {.vocab_size = 32064,
                                  .hidden_size = 3072,
                                  .intermediate_size = 8192,
                                  .kv_heads = 0,
                                  .max_positions = 4096,
                                  .epsilon = 1e-5,
                                  .rope = {.part = 1.0, .yarn_is_longrope = true, .original_max_positions = 4096}};

class Phi3 : public DecoderFamily {
 public:
  std::string model_type() const override { return "phi3"; }
  std::string architecture() const override { return "Phi3ForCausalLM"; }

  TransformerSpec to_spec(ConfigReader& config) const override {
    TransformerSpec spec = read_decoder(config, defaults);
    read_window(config, spec);
    config.dropout("resid_pdrop");
    config.dropout("embd_pdrop");
    config.ignore({"original_max_position_embeddings"});  // of longrope, which has read it
    return spec;
  }

  ordered_json to_config(const TransformerSpec& spec) const override {
    ordered_json config = write_decoder(spec, defaults);
    config["resid_pdrop"] = config["embd_pdrop"] = 0.0;
    const std::int64_t window = spec.layer(0).attention.window;
    config["sliding_window"] = window ? ordered_json(window) : ordered_json(nullptr);
    return config;
  }

 protected:
  DecoderNames names() const override {
    DecoderNames names;
    names.qkv = "self_attn.qkv_proj";
    names.gate_up = "mlp.gate_up_proj";
    return names;
  }
};

const RegisterFamily registration(std::make_unique<Phi3>());

}  // namespace
}  // namespace longhaul
