// The training loop.
#pragma once
#include <chrono>

#include "comm/communicator.h"
#include "config/experiment.h"

namespace longhaul {

/// What train returns when a signal (StopSignals) or training.time_limit stopped it: all that was done is in a
/// checkpoint, and the same command goes on from there.
inline constexpr int exit_stopped = 85;

/// Trains an experiment to its last step, or finds it finished; collective. Returns 0, or exit_stopped; throws Error
/// for everything else that ends a run early (a NaN loss names its step). `start`: of the program, for
/// training.time_limit. Writes into job.folder: experiment.yaml, metrics.jsonl, checkpoints/, export/.
int train(Communicator& world, const Experiment& experiment,
          std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now());

}  // namespace longhaul
