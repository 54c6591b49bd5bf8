// Specs and config.json files: what is taken gives a spec whose text gives the same spec, and that can be exported.
#include "model/huggingface.h"

#include "fuzz.h"
#include "model/parameters.h"

using namespace longhaul;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(fuzz::text(data, size));
  fuzz::taken([&] {
    const LoadedModel model = parse_model(text, "fuzz");
    fuzz::require(parse_model(spec_text(model.spec), "again").spec == model.spec, "a spec's text is the spec");
    fuzz::require(parameter_count(model.spec) > 0, "parameters are counted within 64 bits");
    if (model.spec.layer_count() > 64) return;  // only slow
    const ExportedConfig config = export_config(model.spec, model.family, DType::float32, text);
    fuzz::require(parse_model(config.text, "export").spec.layer_count() == model.spec.layer_count(),
                  "what is exported can be read");
  });
  return 0;
}
