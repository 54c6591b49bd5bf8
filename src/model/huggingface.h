// Hugging Face models: config.json in and out, and where each parameter lies in their weight files. A family is one
// file, family_<name>.cpp; nothing else knows its name.
#pragma once
#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "model/spec.h"

namespace longhaul {

/// The family of our own specs and weight files.
inline constexpr std::string_view own_family = "longhaul";

struct LoadedModel {
  TransformerSpec spec;
  TransformerSpec stored;          ///< what the file says, where an experiment has changed `spec`
  std::string family;              ///< own_family or a Hugging Face model_type
  std::filesystem::path file;      ///< the JSON file that was read
  std::string config_text;         ///< its text, for an export that keeps what the spec does not hold (token ids)
  std::vector<std::string> notes;  ///< what of it was ignored, one line each: log them
};

/// Reads a spec or config.json file, or the config.json of a folder. Throws Error for a family or feature that is not
/// supported, with the list of what is.
LoadedModel load_model(const std::filesystem::path& path);
/// The same from JSON text; `origin` begins messages.
LoadedModel parse_model(const std::string& text, const std::string& origin);

/// The supported model_type values, own_family first.
std::vector<std::string> supported_families();

/// Where a parameter lies in a weight file: whole rows of one tensor, perhaps transposed, in blocks or in another
/// order.
struct WeightMapping {
  std::string parameter;                   ///< our name (parameters.h)
  std::vector<std::int64_t> shape;         ///< our shape
  std::string tensor;                      ///< its tensor as an export names it
  std::string other_name;                  ///< another name that files use for the tensor; empty: none
  std::vector<std::int64_t> tensor_shape;  ///< of the whole tensor, one or two dimensions (ours for own_family)
  bool transposed = false;                 ///< the tensor is stored [in, out]; ours is [out, in]
  std::int64_t begin = 0;                  ///< the first output of the tensor that is this parameter's (fused tensors)
  std::int64_t block = 0;                  ///< every so many of our outputs lie together; 0: all. Not when transposed
  std::int64_t stride = 0;                 ///< outputs of the tensor from one block to the next
  /// The tensor holds rotary pairs side by side, (2i, 2i + 1) of the first `paired` rows of each head of `head_rows`;
  /// ours lie half of `paired` apart. 0: as ours. Not when transposed.
  std::int64_t head_rows = 0, paired = 0;

  std::int64_t elements() const;
  /// The flat index in the tensor of our flat element.
  std::int64_t tensor_offset(std::int64_t element) const;
  /// How many of our elements from `element` on lie one after the other in the tensor; 1 within transposed tensors.
  std::int64_t run(std::int64_t element) const;
};

/// One mapping for each of parameters(spec), in their order. Throws Error for an unknown family; std::logic_error when
/// the family cannot express the spec.
std::vector<WeightMapping> weight_mappings(const TransformerSpec& spec, std::string_view family);

/// True for tensors that files of the family carry without their being parameters (masks, inv_freq, the redundant copy
/// of a tied head): a loader passes over them and refuses others that no mapping names.
bool is_ignored_tensor(std::string_view tensor, const TransformerSpec& spec, std::string_view family);

struct ExportedConfig {
  std::string family;  ///< own_family when no Hugging Face family can express the spec
  std::string text;    ///< config.json
  /// For own_family although another was possible to ask for: for each family the first field that it cannot express.
  std::string why_not;
};

/// config.json for a spec: of `preferred` when that family can express it, else of the first family that can, else our
/// own. Whether one can is found by translating back. `source_config` is the text that the model was loaded from, or
/// empty: token ids and other keys that say nothing about the computation are kept from it when it is of the chosen
/// family. `dtype` is that of the exported weights.
ExportedConfig export_config(const TransformerSpec& spec, std::string_view preferred, DType dtype,
                             const std::string& source_config = "");

}  // namespace longhaul
