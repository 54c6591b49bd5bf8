// The names that a weight file gives to tensors, where they are the usual ones but for a prefix.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "io/safetensors.h"
#include "model/huggingface.h"

namespace longhaul {

/// How the names in a file differ from those that a family expects. Read are: names without the model's own prefix
/// ("model.", "transformer."), as a base model saves them; names behind those that wrappers add ("module.": data
/// parallelism of PyTorch, "_orig_mod.": torch.compile); and both together. Others are found, and named in advice().
class TensorNames {
 public:
  TensorNames(const SafetensorsReader& reader, const std::vector<WeightMapping>& mappings);

  /// The file's name of a tensor.
  std::string in_file(std::string_view usual) const;
  /// The family's name of a tensor of the file.
  std::string usual(std::string_view in_file) const;
  /// What is different, for a line of the log; empty when nothing is.
  std::string difference() const;
  /// What the file holds instead of a tensor that is missing, to end a message; or empty.
  std::string advice(std::string_view missing) const;

 private:
  const SafetensorsReader& reader_;
  std::string removed_, added_;  // usual = removed_ + rest, in the file = added_ + rest
};

}  // namespace longhaul
