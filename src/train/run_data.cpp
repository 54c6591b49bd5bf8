#include "train/run_data.h"

#include <algorithm>

#include "base/error.h"
#include "base/log.h"
#include "data/rest_of_epoch.h"

namespace longhaul {

void RunData::open() {
  const Experiment& experiment = setup_.experiment;
  const auto open_files = [&](const char* key, const std::vector<std::filesystem::path>& files, bool shuffle) {
    try {
      return open_source(world_, setup_, files, shuffle);
    } catch (const Error& error) {
      fail("{}: {}", key, error.what());
    }
  };
  training_ = open_files("data.files", experiment.data.files, true);
  if (!experiment.data.validation_files.empty())
    validation_ = open_files("data.validation_files", experiment.data.validation_files, false);
}

void RunData::report() const {
  report_source(world_, setup_, "training data", training_);
  if (validates()) report_source(world_, setup_, "validation data", validation_);
}

std::optional<double> RunData::validate(Session& session) {
  const std::int64_t available = validation_.sampler->samples(), rows = session.rows(),
                     batch = rows * session.data_ranks(), steps = setup_.experiment.validation.steps;
  const std::int64_t wanted = std::min(available, steps > 0 ? steps * setup_.parallel.global_batch_size : available);
  double loss = 0, valid = 0;
  std::vector<std::int64_t> samples(static_cast<std::size_t>(rows));
  for (std::int64_t begin = 0; begin < wanted; begin += batch) {
    for (std::int64_t r = 0; r < rows; ++r)
      samples[static_cast<std::size_t>(r)] = std::min(begin + session.data_rank() * rows + r, wanted - 1);
    fill_rows(*validation_.loader, session, samples);
    for (std::int64_t r = 0; r < rows; ++r)  // rows past the end repeat the last sample, and do not count
      if (begin + session.data_rank() * rows + r >= wanted)
        std::fill_n(session.micro_batch().labels.begin() + r * session.slots(), session.slots(), ignored_label);
    const auto [sum, count] = session.evaluate();
    loss += sum;
    valid += count;
  }
  if (valid == 0) return std::nullopt;
  return loss / valid;
}

void RunData::go_on_from(DataCursor& cursor) {
  Sampler& sampler = *training_.sampler;
  if (!cursor.earlier.empty()) {
    const TokenSource& tokens =
        training_.packed ? static_cast<const TokenSource&>(*training_.packed) : *training_.dataset;
    auto rest = std::make_unique<RestOfEpoch>(tokens, setup_.sequence, cursor.epoch, cursor.earlier);
    sampler.set_rest(cursor.epoch, rest->first_sample(), rest->samples());
    log_info(
        "epoch {}: {} tokens of it are left, in {} samples of {} ({} tokens are in none); at {} joints what follows is "
        "not "
        "the next token of the text, which was taken before, and is no label",
        cursor.epoch, rest->tokens(), rest->samples(), setup_.sequence,
        rest->tokens() - rest->samples() * setup_.sequence, rest->joints());
    training_.stream = std::move(rest);
    training_.loader = make_loader(setup_.experiment, *training_.stream);
  }
  // Other data may have fewer samples than were taken.
  if (cursor.position < sampler.samples(cursor.epoch)) return;
  log_warn("the checkpoint is at sample {} of epoch {}, which has {} now: the next epoch begins", cursor.position,
           cursor.epoch, sampler.samples(cursor.epoch));
  cursor = {cursor.epoch + 1, 0};
}

}  // namespace longhaul
