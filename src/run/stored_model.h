// A model wherever one lies: a Hugging Face folder, an export, or a run's checkpoint.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "io/checkpoint.h"
#include "model/huggingface.h"
#include "run/checkpointing.h"
#include "run/session.h"

namespace longhaul {

/// A checkpoint of a run folder: of `step`, or the newest that is whole (others are named in the log). Throws Error
/// when there is no such run or checkpoint.
Checkpoint open_run_checkpoint(const std::filesystem::path& run, std::optional<std::int64_t> step);

/// What a run was started from, for what its checkpoints do not hold.
struct RunOrigin {
  std::int64_t sequence = 0;  ///< tokens of its sequences; 0: unknown
  std::string family = {};    ///< as LoadedModel has them; empty when the model is gone or another
  std::string config_text = {};
  std::filesystem::path folder = {};  ///< that of the model's file
};
/// Of the run whose checkpoint has that state. Logs a warning, which ends with `lost`, when the model that
/// experiment.yaml names is not there or is another.
RunOrigin origin_of_run(const std::filesystem::path& run, const TrainerState& state, const std::string& lost);

struct StoredModel {
  TransformerSpec spec;
  std::string config_text;       ///< config.json, where there is one
  std::filesystem::path folder;  ///< where a tokenizer and generation_config.json may lie; empty: unknown
  ParameterSource source;        ///< may be copied; reads only what it is asked for
  std::int64_t step = -1;        ///< of a run's checkpoint
};

/// `path`: a folder with checkpoints/ is a run, everything else a model (load_model) with its weights beside it.
/// `step`: of a run's checkpoint, none for the newest; refused for a model. Throws Error.
StoredModel open_stored_model(const std::filesystem::path& path, std::optional<std::int64_t> step);

}  // namespace longhaul
