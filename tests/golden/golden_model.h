// One folder of goldens: a model as Hugging Face transformers stored it and what transformers computed with it.
#pragma once
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "base/environment.h"
#include "base/error.h"
#include "base/json.h"
#include "io/safetensors.h"
#include "model/huggingface.h"
#include "run/weights.h"
#include "verify/compare.h"
#include "verify/reference_run.h"

namespace longhaul::testing {

inline std::filesystem::path golden_root() {
  const std::string tests = environment("LONGHAUL_TEST_DATA");
  if (tests.empty()) fail("LONGHAUL_TEST_DATA is not set; run the tests by ctest, or set it to the tests folder");
  return std::filesystem::path(tests) / "golden";
}

inline std::vector<std::string> golden_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(golden_root()))
    if (std::filesystem::exists(entry.path() / "manifest.json")) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

inline std::vector<double> doubles(const SafetensorsReader& reader, const SafetensorsTensor& tensor) {
  if (tensor.dtype != "F64") fail("{}: {} is {}", tensor.file, tensor.name, tensor.dtype);
  std::vector<double> values(static_cast<std::size_t>(tensor.bytes) / sizeof(double));
  reader.read(tensor, 0, values.data(), tensor.bytes);
  return values;
}

inline std::vector<std::int32_t> integers(const SafetensorsReader& reader, const SafetensorsTensor& tensor) {
  if (tensor.dtype != "I32") fail("{}: {} is {}", tensor.file, tensor.name, tensor.dtype);
  std::vector<std::int32_t> values(static_cast<std::size_t>(tensor.bytes) / sizeof(std::int32_t));
  reader.read(tensor, 0, values.data(), tensor.bytes);
  return values;
}

struct Golden {
  explicit Golden(const std::string& name)
      : folder(golden_root() / name),
        manifest(read_json(folder / "manifest.json")),
        model(load_model(folder)),
        mappings(weight_mappings(model.spec, model.family)) {
    const SafetensorsReader data((folder / "golden.safetensors").string());
    rows = manifest["counts"]["batch"];
    sequence = manifest["counts"]["sequence_length"];
    batch.tokens = integers(data, data.at("tokens"));
    batch.labels = integers(data, data.at("labels"));
    for (std::int64_t row = 0; row < rows; ++row)
      for (std::int32_t i = 0; i < sequence; ++i) {
        batch.index.push_back(i);
        batch.key_start.push_back(0);
        batch.position.push_back(i);
      }
    loss = doubles(data, data.at("loss"))[0];
    logits = doubles(data, data.at("logits"));
    losses = doubles(data, data.at("adamw_losses"));
    norms = doubles(data, data.at("adamw_gradient_norms"));
    for (const auto& [key, tensor] : data.tensors())
      if (key.starts_with("grad.")) {
        gradients[key.substr(5)] = doubles(data, tensor);
        shapes[key.substr(5)] = tensor.shape;
      }
  }

  ParameterSource source() const { return weights_source(folder, model.spec, model.family); }

  /// Our tensors as those that transformers has: transposed and put together as the mappings say.
  Tensors in_their_shape(const Tensors& ours) const {
    Tensors theirs;
    std::map<std::string, std::size_t> written;
    for (const WeightMapping& mapping : mappings) {
      auto& tensor = theirs[mapping.tensor];
      std::size_t count = 1;
      for (std::int64_t size : mapping.tensor_shape) count *= static_cast<std::size_t>(size);
      tensor.resize(count);
      const auto& values = ours.at(mapping.parameter);
      for (std::size_t i = 0; i < values.size(); ++i)
        tensor.at(static_cast<std::size_t>(mapping.tensor_offset(static_cast<std::int64_t>(i)))) = values[i];
      written[mapping.tensor] += values.size();
    }
    for (const auto& [name, tensor] : theirs)
      if (written[name] != tensor.size()) fail("{} elements of {} for {}", written[name], name, tensor.size());
    return theirs;
  }

  std::filesystem::path folder;
  nlohmann::json manifest;
  LoadedModel model;
  std::vector<WeightMapping> mappings;
  std::int64_t rows = 0, sequence = 0;
  HostBatch batch;
  double loss = 0;
  std::vector<double> logits, losses, norms;
  Tensors gradients;                                        ///< by their names, in their shapes
  std::map<std::string, std::vector<std::int64_t>> shapes;  ///< of the gradients
};

}  // namespace longhaul::testing
