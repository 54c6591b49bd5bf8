#include "run/checkpoint_export.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/system_error.h"
#include "config/experiment.h"
#include "io/checkpoint.h"
#include "model/huggingface.h"
#include "model/spec.h"
#include "run/checkpointing.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;

std::string steps_text(const std::vector<CheckpointLocation>& found) {
  std::vector<std::int64_t> steps;
  for (const auto& one : found) steps.push_back(one.step);
  std::sort(steps.begin(), steps.end());
  return fmt::format("{}", fmt::join(steps, ", "));
}

Checkpoint open_checkpoint(const CheckpointExport& request) {
  std::error_code none;
  if (!fs::is_directory(request.run, none))
    fail("{} is no folder; name the run folder (job.folder) that holds checkpoints/", request.run.string());
  const fs::path folder = request.run / "checkpoints";
  const auto found = list_checkpoints(folder.string());
  if (found.empty())
    fail("{} holds no checkpoint, so {} is no run folder, or nothing has been saved yet", folder.string(),
         request.run.string());
  for (const auto& location : found) {
    if (request.step && location.step != *request.step) continue;
    if (request.step) return Checkpoint(location.path);
    try {
      return Checkpoint(location.path);
    } catch (const SystemError&) {
      throw;
    } catch (const NewerFormat&) {
      throw;
    } catch (const Error& error) {
      log_warn("skipped checkpoint {}", error.what());
    }
  }
  if (request.step)
    fail("{} has no checkpoint of step {}; there are those of steps {}", folder.string(), *request.step,
         steps_text(found));
  fail("no checkpoint in {} is whole", folder.string());
}

// What the run was started from, for what the checkpoint does not hold.
void take_source(const CheckpointExport& request, const TrainerState& state, ExportOptions& options) {
  try {
    const fs::path file = request.run / "experiment.yaml";
    const Experiment experiment = parse_experiment(state.experiment, file);
    options.sequence = experiment.training.seq_len;
    const LoadedModel model = load_model(experiment.model.config);
    refuse_other_model(state, model.spec, fmt::format("of step {}", state.step));
    options.family = model.family;
    options.source_config = model.config_text;
    options.source_folder = model.file.parent_path();
  } catch (const Error& error) {
    log_warn(
        "the model that the run was started from is not used: the family is chosen anew, and there are no files of a "
        "tokenizer ({})",
        error.what());
  }
}

}  // namespace

ExportedModel export_checkpoint(const CheckpointExport& request) {
  const Checkpoint checkpoint = open_checkpoint(request);
  const TrainerState state = trainer_state(checkpoint);
  log_info("checkpoint of step {} in {}", state.step, checkpoint.path());
  const std::string where = checkpoint.path() + ": its model";
  const TransformerSpec spec = spec_from_json(parse_json(state.model, where), where);
  ExportOptions options;
  options.dtype = request.dtype;
  options.step = state.step;
  options.max_shard_bytes = request.max_shard_bytes;
  take_source(request, state, options);

  const std::vector<Parameter> all = parameters(spec);
  std::vector<DType> types;
  for (const Parameter& parameter : all) {
    const auto found = checkpoint.tensors().find(parameter.name);
    if (found == checkpoint.tensors().end())
      fail("{} holds no tensor {}, which its model has", checkpoint.path(), parameter.name);
    types.push_back(found->second.dtype);
  }
  ModelWriter writer(spec, request.folder, options, types.front());
  writer.open();
  std::vector<std::byte> piece;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const std::int64_t count = all[i].elements();
    for (std::int64_t begin = 0; begin < count; begin += ModelWriter::piece_elements) {
      const std::int64_t end = std::min(count, begin + ModelWriter::piece_elements);
      piece.resize(static_cast<std::size_t>(end - begin) * size_of(types[i]));
      checkpoint.read(all[i].name, types[i], all[i].shape, begin, end, piece.data());
      writer.write(i, begin, end, piece.data(), types[i]);
    }
  }
  return writer.finish();
}

}  // namespace longhaul
