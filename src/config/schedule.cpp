#include "config/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace longhaul {

double learning_rate(const Experiment& experiment, std::int64_t step) {
  const auto& scheduler = experiment.lr_scheduler;
  const double lr = experiment.optimizer.lr;
  const std::int64_t steps = experiment.training.steps;
  const std::int64_t warmup = std::min(scheduler.warmup_steps, steps);
  step = std::max<std::int64_t>(step, 1);
  // Warm-up keeps the slope that was asked for even when the run is shorter than it.
  if (step <= warmup) return lr * static_cast<double>(step) / static_cast<double>(scheduler.warmup_steps);
  if (scheduler.decay_type == DecayType::constant) return lr;

  std::int64_t decay_steps = steps - warmup;
  if (scheduler.decay_ratio)
    decay_steps =
        std::min<std::int64_t>(decay_steps, std::llround(static_cast<double>(steps) * *scheduler.decay_ratio));
  // The last `decay_steps` of steps + 1, the one more being the step at which the floor would be reached.
  const std::int64_t stable_until = steps + 1 - decay_steps;
  if (decay_steps == 0 || step <= stable_until) return lr;
  const double progress = std::min(1.0, static_cast<double>(step - stable_until) / static_cast<double>(decay_steps));
  const double left =
      scheduler.decay_type == DecayType::cosine ? 0.5 * (1 + std::cos(std::numbers::pi * progress)) : 1 - progress;
  return lr * (scheduler.min_lr_factor + (1 - scheduler.min_lr_factor) * left);
}

}  // namespace longhaul
