// Orion, code of its own beside its weights: Llama with layer norms.
#include "model/family_decoder.h"

namespace longhaul {
namespace {

using nlohmann::ordered_json;

const DecoderDefaults defaults = {.vocab_size = 84608,
                                  .hidden_size = 4096,
                                  .intermediate_size = 15360,
                                  .kv_heads = 0,
                                  .max_positions = 4096,
                                  .norm = NormKind::layer,
                                  .epsilon = 1e-5};

class Orion : public DecoderFamily {
 public:
  std::string model_type() const override { return "orion"; }
  std::string architecture() const override { return "OrionForCausalLM"; }
  int export_rank() const override { return 2; }

  TransformerSpec to_spec(ConfigReader& config) const override {
    TransformerSpec spec = read_decoder(config, defaults);
    return spec;
  }

  ordered_json to_config(const TransformerSpec& spec) const override {
    ordered_json config = write_decoder(spec, defaults);
    return config;
  }
};

const RegisterFamily registration(std::make_unique<Orion>());

}  // namespace
}  // namespace longhaul
