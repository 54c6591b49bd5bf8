#include "train/trainer_data.h"

#include <algorithm>

#include "base/error.h"
#include "base/log.h"
#include "data/rest_of_epoch.h"

namespace longhaul {

void TrainerData::open() {
  training_ = open_training(world_, setup_);
  for (const DataGroup& group : validation_groups(setup_.experiment))
    validation_.push_back(open_source(world_, setup_, group, false));
}

void TrainerData::report() const {
  if (training_.parts.empty()) report_source(world_, setup_, "training data", training_);
  for (std::size_t i = 0; i < training_.parts.size(); ++i)
    report_source(
        world_, setup_,
        fmt::format("{} ({:.4g} % of the samples)", training_.parts[i].group.key, 100 * training_.order->share(i)),
        training_.parts[i]);
  for (const DataSource& set : validation_)
    report_source(world_, setup_, set.group.name.empty() ? "validation data" : set.group.key, set);
}

std::vector<ValidationResult> TrainerData::validate(Session& session) {
  std::vector<ValidationResult> results;
  for (const DataSource& set : validation_) results.push_back(evaluate_source(session, setup_, set));
  return results;
}

void TrainerData::go_on_from(std::vector<SourceCursor>& cursors) {
  std::vector<DataSource*> sources;
  if (training_.parts.empty()) sources.push_back(&training_);
  for (DataSource& part : training_.parts) sources.push_back(&part);
  std::vector<SourceCursor> now;
  bool same = cursors.size() == sources.size();
  for (DataSource* source : sources) {
    const auto known = std::find_if(cursors.begin(), cursors.end(),
                                    [&](const SourceCursor& one) { return one.name == source->group.name; });
    same &= known != cursors.end() && known->weight == source->group.weight;
    now.push_back(known != cursors.end() ? *known : SourceCursor{source->group.name});
    now.back().weight = source->group.weight;
    go_on(*source, now.back().cursor);
  }
  if (!same)
    for (SourceCursor& one : now) one.taken = 0;
  cursors = std::move(now);
  if (!training_.parts.empty()) mix(setup_, training_);
}

void TrainerData::go_on(DataSource& source, DataCursor& cursor) const {
  Sampler& sampler = *source.sampler;
  const std::string what = source.group.name.empty() ? "" : source.group.key + ": ";
  if (!cursor.earlier.empty()) {
    auto rest = std::make_unique<RestOfEpoch>(source.tokens(), setup_.sequence, cursor.epoch, cursor.earlier);
    sampler.set_rest(cursor.epoch, rest->first_sample(), rest->samples());
    log_info(
        "{}epoch {}: {} tokens of it are left, in {} samples of {} ({} tokens are in none); at {} joints what follows "
        "is "
        "not "
        "the next token of the text, which was taken before, and is no label",
        what, cursor.epoch, rest->tokens(), rest->samples(), setup_.sequence,
        rest->tokens() - rest->samples() * setup_.sequence, rest->joints());
    source.rest = std::move(rest);
    source.loader = make_loader(setup_.experiment, source.tokens());
  }
  // Other data may have fewer samples than were taken.
  if (cursor.position < sampler.samples(cursor.epoch)) return;
  log_warn("{}the checkpoint is at sample {} of epoch {}, which has {} now: the next epoch begins", what,
           cursor.position, cursor.epoch, sampler.samples(cursor.epoch));
  cursor = {cursor.epoch + 1, 0};
}

}  // namespace longhaul
