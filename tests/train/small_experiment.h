// A small experiment on disk: a spec, a text file, and an experiment that trains on them.
#pragma once
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "config/experiment.h"
#include "model/initialise.h"
#include "model/spec.h"

namespace longhaul::testing {

class SmallExperiment {
 public:
  explicit SmallExperiment(TransformerSpec spec) {
    std::string pattern = (std::filesystem::temp_directory_path() / "longhaul-test-XXXXXX").string();
    if (!::mkdtemp(pattern.data())) throw std::runtime_error("mkdtemp failed");
    folder_ = pattern;
    spec.vocabulary = 257;
    std::ofstream(folder_ / "model.json") << spec_text(spec);
    std::string text;
    for (std::uint32_t i = 0; i < 2000; ++i) text += static_cast<char>('a' + philox({i, 0, 0, 3}, {5, 8})[0] % 26);
    std::ofstream(folder_ / "text.txt") << text;
    std::ofstream(folder_ / "experiment.yaml") << yaml();
  }
  SmallExperiment(const SmallExperiment&) = delete;
  ~SmallExperiment() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  std::filesystem::path folder() const { return folder_; }
  std::filesystem::path file() const { return folder_ / "experiment.yaml"; }
  Experiment load(const std::vector<std::string>& overrides = {}) const { return load_experiment(file(), overrides); }

 private:
  static std::string yaml() {
    return "model: {config: model.json}\n"
           "data: {files: [text.txt]}\n"
           "training: {seq_len: 16, micro_batch_size: 2, steps: 2, dtype: float64, threads: 1}\n"
           "optimizer: {lr: 1e-2}\n";
  }
  std::filesystem::path folder_;
};

}  // namespace longhaul::testing
