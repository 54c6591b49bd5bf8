// The files of an experiment, by the key that names them, each group with what holds for its files.
#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "config/experiment.h"

namespace longhaul {

struct DataGroup {
  std::string key;   ///< "data.files", "validation.sets.books"; messages begin with it
  std::string name;  ///< of a source or a validation set; "": the files of data.files or data.validation_files
  std::vector<std::filesystem::path> files;
  std::string format;
  bool mask_prompt = false;
  TrainOn train_on{};
  double weight = 1;             ///< of a source
  std::optional<double> epochs;  ///< of a source: it may be read so often
};

/// What is trained on: data.files, or data.sources in their order. Empty without any.
std::vector<DataGroup> training_groups(const Experiment& experiment);
/// What is validated on: data.validation_files, then validation.sets in their order.
std::vector<DataGroup> validation_groups(const Experiment& experiment);
/// Both, in that order.
std::vector<DataGroup> data_groups(const Experiment& experiment);

}  // namespace longhaul
