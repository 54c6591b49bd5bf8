// Weights in and out: a safetensors file or folder as the source of a run's parameters, and a run's parameters as a
// model folder that Hugging Face transformers loads.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/dtype.h"
#include "model/spec.h"
#include "run/model_writer.h"
#include "run/session.h"

namespace longhaul {

/// The parameters of a spec as a .safetensors file, an index or a folder holds them (what SafetensorsReader takes),
/// under the names of `family` (own_family or a Hugging Face model_type). F64, F32, BF16 and F16 tensors are converted
/// to the dtype that is asked for (float64 or float32).
///
/// Reads the headers and checks everything at once: throws Error when a tensor is missing, has another shape or another
/// dtype, or when the files hold a tensor that is neither a parameter nor one that the family is known to carry
/// besides. Names may carry what wrappers of a model put before them, or lack what a base model's lack
/// (tensor_names.h). The head of a model whose head is tied must equal the embedding. Messages name the file, the
/// tensor, the shape found and the shape wanted.
///
/// The source may be copied and called from several threads. It reads only what it is asked for.
ParameterSource weights_source(const std::filesystem::path& path, const TransformerSpec& spec, std::string_view family);

/// Writes config.json and the weights into `folder` (made when missing; other files in it stay). Collective over
/// the session's world, which must have been built for `spec`; however its ranks shard state. Rank 0 writes; it holds
/// pieces of at most 4 MiB, or one parameter where the file stores it transposed, and nobody gathers the model.
///
/// All files are written and flushed under temporary names before one replaces an earlier one: when that fails (a
/// full disk), every rank throws the same message and the earlier export is as it was. Logs where the model went, and
/// why when it is written as our own family.
ExportedModel export_model(Session& session, const TransformerSpec& spec, const std::filesystem::path& folder,
                           const ExportOptions& options);

}  // namespace longhaul
