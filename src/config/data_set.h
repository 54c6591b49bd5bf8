// Files that belong together under a name.
#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/train_on.h"

namespace longhaul {

/// One of data.sources or validation.sets.
struct DataSet {
  bool operator==(const DataSet&) const = default;
  std::string name = {};
  std::vector<std::filesystem::path> files = {};
  std::string format = {};               ///< the name of one that is registered; "": data.format
  std::optional<bool> mask_prompt = {};  ///< none: data.mask_prompt, where the format has prompts
  std::optional<TrainOn> train_on = {};  ///< none: data.train_on
  double weight = 1;                     ///< of a source: its samples, in proportion to the others'
  std::optional<double> epochs = {};  ///< of a source: it may be read so often; none: as often as its weight asks for
};

}  // namespace longhaul
