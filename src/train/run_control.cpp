#include "train/run_control.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "run/stop_signals.h"

namespace longhaul {
namespace {

// What a rank tells the others.
struct Notice {
  std::int64_t signal = 0, flag = 0;
  // Rank 0's hold: its clock decides for all.
  std::int64_t limit_reached = 0, save_due = 0, steps_to_next = 1;
};

double minutes_since(RunControl::Clock::time_point begin) {
  return std::chrono::duration<double>(RunControl::Clock::now() - begin).count() / 60;
}

}  // namespace

RunControl::RunControl(Communicator& world, const Experiment& experiment, Clock::time_point start,
                       const std::atomic<bool>* stop)
    : world_(world),
      stop_(stop),
      start_(start),
      limit_(experiment.training.time_limit.value_or(0)),
      minutes_(experiment.checkpoint.minutes.value_or(0)),
      limited_(experiment.training.time_limit.has_value()),
      timed_(experiment.checkpoint.minutes.has_value()),
      last_save_(Clock::now()) {}

RunControl::Decision RunControl::after(std::int64_t step, double seconds) {
  if (step < next_) return {};
  // Short steps would wait for the answers longer than they take.
  const Decision decision = ask(std::clamp<std::int64_t>(std::llround(0.05 / std::max(seconds, 1e-6)), 1, 64));
  next_ = step + steps_to_next_;
  return decision;
}

RunControl::Decision RunControl::now() {
  return ask(1);
}

RunControl::Decision RunControl::ask(std::int64_t steps_to_next) {
  Notice mine;
  mine.signal = stop_signal();
  mine.flag = stop_ != nullptr && stop_->load();
  mine.limit_reached = limited_ && minutes_since(start_) >= limit_;
  mine.save_due = timed_ && minutes_since(last_save_) >= minutes_;
  mine.steps_to_next = world_.size() == 1 ? 1 : steps_to_next;
  std::vector<Notice> all(static_cast<std::size_t>(world_.size()), mine);
  if (world_.size() > 1) world_.all_gather(&mine, all.data(), sizeof mine);
  steps_to_next_ = all[0].steps_to_next;

  Decision decision;
  decision.save = all[0].save_due;
  const auto first = std::find_if(all.begin(), all.end(), [](const Notice& one) { return one.signal != 0; });
  if (first != all.end())
    decision.stop = signal_name(static_cast<int>(first->signal)) +
                    (world_.size() > 1 ? fmt::format(" (rank {})", first - all.begin()) : "");
  else if (std::any_of(all.begin(), all.end(), [](const Notice& one) { return one.flag != 0; }))
    decision.stop = "the program that runs it";
  else if (all[0].limit_reached)
    decision.stop = fmt::format("training.time_limit of {} minutes", limit_);
  return decision;
}

}  // namespace longhaul
