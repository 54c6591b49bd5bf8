// Experiment files, YAML and JSON, and overrides, one a line after the file. What is taken prints as a file that gives
// the same experiment again.
#include "config/experiment.h"

#include <vector>

#include "fuzz.h"

using namespace longhaul;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  fuzz::Parts parts(fuzz::text(data + 1, size - 1));
  const std::string file(parts.next());
  std::string_view lines = parts.next();
  std::vector<std::string> overrides;
  while (!lines.empty() && overrides.size() < 16) {
    const std::size_t end = lines.find('\n');
    overrides.emplace_back(lines.substr(0, end));
    lines = end == std::string_view::npos ? std::string_view() : lines.substr(end + 1);
  }
  const bool json = data[0] == 'j';
  fuzz::taken([&] {
    const Experiment experiment = parse_experiment(file, json ? "/f/fuzz.json" : "/f/fuzz.yaml", overrides);
    const Experiment again = parse_experiment(to_yaml(experiment), "/f/fuzz.yaml");
    fuzz::require(again == experiment, "the resolved experiment reads back as itself");
  });
  return 0;
}
