// The training loop.
#pragma once
#include <atomic>
#include <chrono>
#include <functional>

#include "comm/communicator.h"
#include "config/experiment.h"

namespace longhaul {

/// What train returns when a signal (StopSignals) or training.time_limit stopped it: all that was done is in a
/// checkpoint, and the same command goes on from there.
inline constexpr int exit_stopped = 85;

struct StepMetrics;

/// What a program that trains by this library listens to and asks for.
struct TrainHooks {
  std::function<void(const StepMetrics&)> on_step = {};  ///< rank 0's, after each step's line of metrics
  const std::atomic<bool>* stop = nullptr;               ///< once it is true on some rank, the run stops after its step
};

/// Trains an experiment to its last step, or finds it finished; collective. Returns 0, or exit_stopped; throws Error
/// for everything else that ends a run early (a NaN loss names its step). `start`: of the program, for
/// training.time_limit. Writes into job.folder: experiment.yaml, metrics.jsonl, checkpoints/, export/.
int train(Communicator& world, const Experiment& experiment,
          std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now(), const TrainHooks& hooks = {});

}  // namespace longhaul
