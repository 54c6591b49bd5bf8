// The learning rate as a pure function of the step.
#pragma once
#include <cstdint>

#include "config/experiment.h"

namespace longhaul {

/// The learning rate of optimizer step `step`, counted from 1 (as the log prints it) to training.steps.
///
/// Warm-up is linear: step / warmup_steps of lr, so that step 1 already moves and step warmup_steps has all of lr.
/// Afterwards `constant` stays; `cosine` and `linear` fall to lr x min_lr_factor over the steps after the warm-up, or,
/// when decay_ratio is given, over that last part of training; `wsd` (warm-up, stable, decay) stays at lr and falls
/// linearly over the last decay_ratio of training. The factor min_lr_factor would be reached one step after the last,
/// so that no step is spent at a rate of zero; steps past the last stay there.
double learning_rate(const Experiment& experiment, std::int64_t step);

}  // namespace longhaul
