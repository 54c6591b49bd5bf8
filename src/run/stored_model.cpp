#include "run/stored_model.h"

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/system_error.h"
#include "config/experiment.h"
#include "model/parameters.h"
#include "run/model_overrides.h"
#include "run/weights.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;

std::string steps_text(const std::vector<CheckpointLocation>& found) {
  std::vector<std::int64_t> steps;
  for (const auto& one : found) steps.push_back(one.step);
  std::sort(steps.begin(), steps.end());
  return fmt::format("{}", fmt::join(steps, ", "));
}

// Masters are float32 or float64; a reader may ask for the other.
ParameterSource checkpoint_source(const std::shared_ptr<const Checkpoint>& checkpoint, const TransformerSpec& spec) {
  for (const Parameter& parameter : parameters(spec))
    if (!checkpoint->tensors().contains(parameter.name))
      fail("{} holds no tensor {}, which its model has", checkpoint->path(), parameter.name);
  return [checkpoint](const std::string& name, std::int64_t begin, std::int64_t end, DType dtype, void* target) {
    const CheckpointTensor& tensor = checkpoint->tensors().find(name)->second;
    const auto read = [&](void* to) { checkpoint->read(name, tensor.dtype, tensor.shape, begin, end, to); };
    if (tensor.dtype == dtype) return read(target);
    std::vector<std::byte> stored(static_cast<std::size_t>(end - begin) * size_of(tensor.dtype));
    read(stored.data());
    dispatch_floating(tensor.dtype, [&](auto from_zero) {
      dispatch_floating(dtype, [&](auto to_zero) {
        using From = decltype(from_zero);
        using To = decltype(to_zero);
        const From* from = reinterpret_cast<const From*>(stored.data());
        for (std::int64_t i = 0; i < end - begin; ++i)
          static_cast<To*>(target)[i] =
              static_cast<To>(static_cast<accumulate_t<To>>(static_cast<accumulate_t<From>>(from[i])));
      });
    });
  };
}

}  // namespace

Checkpoint open_run_checkpoint(const fs::path& run, std::optional<std::int64_t> step) {
  std::error_code none;
  if (!fs::is_directory(run, none))
    fail("{} is no folder; name the run folder (job.folder) that holds checkpoints/", run.string());
  const fs::path folder = run / "checkpoints";
  const auto found = list_checkpoints(folder.string());
  if (found.empty())
    fail("{} holds no checkpoint, so {} is no run folder, or nothing has been saved yet", folder.string(),
         run.string());
  for (const auto& location : found) {
    if (step && location.step != *step) continue;
    if (step) return Checkpoint(location.path);
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
  if (step)
    fail("{} has no checkpoint of step {}; there are those of steps {}", folder.string(), *step, steps_text(found));
  fail("no checkpoint in {} is whole", folder.string());
}

RunOrigin origin_of_run(const fs::path& run, const TrainerState& state, const std::string& lost) {
  RunOrigin origin;
  try {
    const Experiment experiment = parse_experiment(state.experiment, run / "experiment.yaml");
    origin.sequence = experiment.training.seq_len;
    const LoadedModel model = experiment_model(experiment);
    refuse_other_model(state, model.spec, fmt::format("of step {}", state.step));
    origin.family = model.family;
    origin.config_text = model.config_text;
    origin.folder = model.file.parent_path();
  } catch (const Error& error) {
    log_warn("the model that the run was started from is not used: {} ({})", lost, error.what());
  }
  return origin;
}

StoredModel open_stored_model(const fs::path& path, std::optional<std::int64_t> step) {
  StoredModel stored;
  std::error_code none;
  if (!fs::is_directory(path / "checkpoints", none)) {
    if (step) fail("a step is of a run's checkpoints, but {} has no folder checkpoints", path.string());
    const LoadedModel model = load_model(path);
    for (const auto& note : model.notes) log_info("{}", note);
    stored.spec = model.spec;
    stored.config_text = model.config_text;
    stored.folder = model.file.parent_path();
    stored.source = weights_source(stored.folder, model.spec, model.family);
    return stored;
  }
  const auto checkpoint = std::make_shared<const Checkpoint>(open_run_checkpoint(path, step));
  const TrainerState state = trainer_state(*checkpoint);
  log_info("checkpoint of step {} in {}", state.step, checkpoint->path());
  const std::string where = checkpoint->path() + ": its model";
  stored.spec = spec_from_json(parse_json(state.model, where), where);
  stored.step = state.step;
  const RunOrigin origin = origin_of_run(path, state, "there is no tokenizer");
  stored.config_text = origin.config_text;
  stored.folder = origin.folder;
  stored.source = checkpoint_source(checkpoint, stored.spec);
  return stored;
}

}  // namespace longhaul
