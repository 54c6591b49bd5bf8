#include "run/changed_keys.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/log.h"
#include "config/schedule.h"
#include "run/text_tokens.h"
#include "tokenizer/tokenizer.h"

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
  constexpr std::array sections = {"job.",         "parallelism.", "checkpoint.",        "metrics.", "validation.",
                                   "distributed.", "device.",      "activation_memory.", "sample.",  "export."};
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

namespace {

// What data.tokenizer means for this model: the word bytes, or a file.
std::string meant_tokenizer(const RunSetup& setup, const Experiment& experiment) {
  RunSetup other;
  other.model = setup.model;
  other.experiment = experiment;
  try {
    const auto file = text_tokenizer(other);
    return file ? load_tokenizer(*file)->file().string() : "bytes";
  } catch (const Error&) {
    return experiment.data.tokenizer.string();  // what cannot be found is as it is written
  }
}

// With data.tokenizer where text is read otherwise now, whatever the key says; without it where it is read alike.
// `text`: how it was read then; checkpoints of earlier versions do not say.
std::vector<ChangedKey> meant_changes(const std::string& before, const TextReading& text, const RunSetup& setup) {
  std::vector<ChangedKey> changed = changed_keys(before, setup.experiment);
  const Experiment then = parse_experiment(before, "/checkpoint.yaml");
  const std::string key = "data.tokenizer";
  if (text.key.empty()) {
    std::erase_if(changed, [&](const ChangedKey& one) {
      return one.key == key && meant_tokenizer(setup, then) == meant_tokenizer(setup, setup.experiment);
    });
    return changed;
  }
  const TextReading now = setup.text.key.empty() ? text_reading(setup) : setup.text;
  if (now.key.empty()) return changed;  // no text any more: data.format or data.files say so
  std::erase_if(changed, [&](const ChangedKey& one) { return one.key == key; });
  if (now.key == text.key) return changed;
  const bool told = std::any_of(changed.begin(), changed.end(), [](const ChangedKey& one) {
    return one.key == "data.chat_format" || one.key == "data.eos_token";
  });
  if (now.tokenizer != text.tokenizer)
    changed.push_back({key, text.tokenizer, now.tokenizer});
  else if (!told)
    changed.push_back({key, text.tokenizer + " with other contents, chat template or end token", now.tokenizer});
  return changed;
}

// The sources as they are read, whatever their shares.
std::vector<DataSet> without_shares(std::vector<DataSet> sources) {
  for (DataSet& source : sources) {
    source.weight = 1;
    source.epochs.reset();
  }
  return sources;
}

}  // namespace

void refuse_other_experiment(const Checkpoint& checkpoint, const RunSetup& setup) {
  const Experiment& experiment = setup.experiment;
  std::vector<ChangedKey> changed;
  try {
    changed = meant_changes(checkpoint_experiment(checkpoint), checkpoint_text(checkpoint), setup);
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

std::string take_changes(TrainerState& state, const RunSetup& setup, std::int64_t samples) {
  const Experiment& experiment = setup.experiment;
  std::vector<ChangedKey> changed, other;
  try {
    changed = meant_changes(state.experiment, state.text, setup);
  } catch (const Error& error) {
    return fmt::format("which keys have changed since the checkpoint is not known, its experiment cannot be read: {}",
                       error.what());
  }
  std::erase_if(changed, [&](const ChangedKey& one) {
    if (decides_numbers(one.key)) return false;
    other.push_back(one);
    return true;
  });
  if (!other.empty())
    log_info("changed since the checkpoint: {}{}", list_of(other),
             std::ranges::any_of(other, [](const ChangedKey& one) { return one.key == "device.type"; })
                 ? "; another device rounds otherwise from here on"
                 : "");
  if (changed.empty()) return "";

  const Experiment before = parse_experiment(state.experiment, "/checkpoint.yaml");
  const auto has = [&](auto... names) {
    return std::any_of(changed.begin(), changed.end(),
                       [&](const ChangedKey& one) { return ((one.key == names) || ...); });
  };
  std::string text = "the run goes on with other values than the checkpoint had: " + list_of(changed);
  const auto follows = [&](const std::string& what) { text += "; " + what; };
  const bool packed = before.data.packing == PackingMode::best_fit || experiment.data.packing == PackingMode::best_fit;
  const bool same_sources = without_shares(before.data.sources) == without_shares(experiment.data.sources);
  const bool other_data =
      has("data.files", "data.format", "data.tokenizer", "data.chat_format", "data.eos_token", "data.token_bytes") ||
      !same_sources || (packed && has("data.packing", "training.seq_len"));
  if (other_data) {
    // Nothing of them has been taken; the place says no more than how far the run is.
    std::int64_t tokens = 0;
    for (SourceCursor& one : state.sources) {
      tokens = one.cursor.position * before.training.seq_len;
      one.cursor = {one.cursor.epoch, tokens / experiment.training.seq_len};
    }
    if (experiment.data.sources.empty() && before.data.sources.empty())
      follows(fmt::format(
          "the data are others: they are read from sample {} of {} in epoch {} on, {} tokens behind their begin as in "
          "the old ones",
          std::min(state.sources[0].cursor.position, samples), samples, state.sources[0].cursor.epoch, tokens));
    else
      follows(
          "the data are others: a source of a name that was there before is read from as many tokens behind its begin "
          "on as it was, one of a new name from its begin");
  } else if (has("training.seq_len", "training.seed")) {
    for (SourceCursor& one : state.sources) {
      if (one.cursor.position > 0)
        one.cursor.earlier.push_back({before.training.seq_len, state.data_seed, one.cursor.position});
      one.cursor.position = 0;
    }
    follows(fmt::format(
        "the rest of epoch {} is cut{} from the tokens that were not taken yet: none is skipped, none comes "
        "again",
        state.sources[0].cursor.epoch, has("training.seed") ? " and shuffled anew" : ""));
  }
  if (has("data.sources") && same_sources) follows("the sources have their new shares from here on");
  if (has("training.seed")) follows("the order of the data changes here");
  if (has("model.weights", "model.init_seed"))
    follows("parameters come from the checkpoint: model.weights and model.init_seed are not used");
  const double rate = learning_rate(experiment, state.step + 1), was = learning_rate(before, state.step + 1);
  if (rate != was) follows(fmt::format("the learning rate of the next step is {:.4g} instead of {:.4g}", rate, was));
  return text;
}

}  // namespace longhaul
