// A checkpoint of a run as a model folder, without starting the run: for `longhaul export`.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>

#include "run/model_writer.h"

namespace longhaul {

struct CheckpointExport {
  std::filesystem::path run;         ///< a run folder
  std::filesystem::path folder;      ///< where the model goes
  std::optional<std::int64_t> step;  ///< of the checkpoint; none: the newest that is whole
  std::optional<DType> dtype;        ///< of the written tensors; none: the masters' own
  std::int64_t max_shard_bytes = 0;  ///< as ExportOptions has it
};

/// Family, tokenizer and token ids are those of the model that the run was started from (`model.config` of its
/// experiment.yaml), when that is still there and the same; else a warning says so, and the first family that can
/// express the checkpoint's own spec is taken. Holds a piece, or one parameter where the file stores it transposed.
/// Throws Error when there is no such run or checkpoint, for damage, naming file and tensor, for a folder that is the
/// run's, its checkpoints' or its model's own, and as ModelWriter does.
ExportedModel export_checkpoint(const CheckpointExport& request);

}  // namespace longhaul
