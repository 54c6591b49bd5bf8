#include "run/changed_keys.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/log.h"
#include "config/schedule.h"

namespace longhaul {

std::vector<ChangedKey> changed_keys(const std::string& before, const Experiment& now) {
  const Experiment then = parse_experiment(before, "/checkpoint.yaml");
  std::vector<ChangedKey> changed;
  for (const std::string& key : key_names()) {
    if (key.starts_with("job.")) continue;
    const std::string was = value_of(then, key), is = value_of(now, key);
    if (was != is) changed.push_back({key, was, is});
  }
  return changed;
}

bool decides_numbers(const std::string& key) {
  constexpr std::array sections = {"job.",        "parallelism.", "checkpoint.", "metrics.",
                                   "validation.", "distributed.", "device.",     "activation_memory."};
  constexpr std::array keys = {"training.time_limit",    "training.threads",       "training.matmul",
                               "training.deterministic", "training.max_bad_steps", "data.validation_files"};
  return std::none_of(sections.begin(), sections.end(), [&](const char* one) { return key.starts_with(one); }) &&
         std::none_of(keys.begin(), keys.end(), [&](const char* one) { return key == one; });
}

std::string list_of(const std::vector<ChangedKey>& keys) {
  std::string text;
  for (const auto& [key, before, now] : keys)
    text += fmt::format("{}{} {} (was {})", text.empty() ? "" : ", ", key, now, before);
  return text;
}

void refuse_other_experiment(const Checkpoint& checkpoint, const Experiment& experiment) {
  std::vector<ChangedKey> changed;
  try {
    changed = changed_keys(checkpoint_experiment(checkpoint), experiment);
  } catch (const Error& error) {
    log_info("whether the finished run was of this experiment is not known: {}", error.what());
    return;
  }
  std::erase_if(changed,
                [](const ChangedKey& one) { return !decides_numbers(one.key) || one.key == "training.steps"; });
  if (!changed.empty())
    fail(
        "job.folder {} holds a finished run of another experiment: {}. Use another job.folder, or set training.steps "
        "above {} to go on from its end",
        experiment.job.folder.string(), list_of(changed), checkpoint.step());
}

std::string take_changes(TrainerState& state, const Experiment& experiment, std::int64_t samples) {
  std::vector<ChangedKey> changed, other;
  try {
    changed = changed_keys(state.experiment, experiment);
  } catch (const Error& error) {
    return fmt::format("which keys have changed since the checkpoint is not known, its experiment cannot be read: {}",
                       error.what());
  }
  std::erase_if(changed, [&](const ChangedKey& one) {
    if (decides_numbers(one.key)) return false;
    other.push_back(one);
    return true;
  });
  if (!other.empty()) log_info("changed since the checkpoint: {}", list_of(other));
  if (changed.empty()) return "";

  const Experiment before = parse_experiment(state.experiment, "/checkpoint.yaml");
  const auto has = [&](auto... names) {
    return std::any_of(changed.begin(), changed.end(),
                       [&](const ChangedKey& one) { return ((one.key == names) || ...); });
  };
  std::string text = "the run goes on with other values than the checkpoint had: " + list_of(changed);
  const auto follows = [&](const std::string& what) { text += "; " + what; };
  const bool packed = before.data.packing == PackingMode::best_fit || experiment.data.packing == PackingMode::best_fit;
  const bool other_data = has("data.files", "data.format", "data.tokenizer", "data.chat_format", "data.eos_token") ||
                          (packed && has("data.packing", "training.seq_len"));
  if (other_data) {
    // Nothing of them has been taken; the place says no more than how far the run is.
    const std::int64_t tokens = state.cursor.position * before.training.seq_len;
    state.cursor = {state.cursor.epoch, tokens / experiment.training.seq_len};
    follows(
        fmt::format("the data are others: they are read from sample {} of {} in epoch {} on, {} tokens behind their "
                    "begin as in the old ones",
                    std::min(state.cursor.position, samples), samples, state.cursor.epoch, tokens));
  } else if (has("training.seq_len", "training.seed")) {
    if (state.cursor.position > 0)
      state.cursor.earlier.push_back({before.training.seq_len, state.data_seed, state.cursor.position});
    state.cursor.position = 0;
    follows(fmt::format(
        "the rest of epoch {} is cut{} from the tokens that were not taken yet: none is skipped, none comes "
        "again",
        state.cursor.epoch, has("training.seed") ? " and shuffled anew" : ""));
  }
  if (has("training.seed")) follows("the order of the data changes here");
  if (has("model.weights", "model.init_seed"))
    follows("parameters come from the checkpoint: model.weights and model.init_seed are not used");
  const double rate = learning_rate(experiment, state.step + 1), was = learning_rate(before, state.step + 1);
  if (rate != was) follows(fmt::format("the learning rate of the next step is {:.4g} instead of {:.4g}", rate, was));
  return text;
}

}  // namespace longhaul
