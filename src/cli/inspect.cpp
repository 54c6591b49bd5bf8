// longhaul inspect
#include <cstdio>
#include <memory>

#include "cli/command.h"
#include "run/inspect.h"

namespace longhaul::cli {

std::function<int()> add_inspect(CLI::App& app) {
  struct Arguments {
    std::filesystem::path model;
    bool spec = false;
  };
  auto arguments = std::make_shared<Arguments>();
  app.add_option("model", arguments->model, "a spec or Hugging Face config.json file, or the folder of one")
      ->required();
  app.add_flag("--spec", arguments->spec, "print the spec only, as JSON");
  return [arguments] {
    const LoadedModel model = load_model(arguments->model);
    std::fputs((arguments->spec ? spec_text(model.spec) : inspect_model(model)).c_str(), stdout);
    std::fflush(stdout);
    return 0;
  };
}

}  // namespace longhaul::cli
