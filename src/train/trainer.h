// The training loop.
#pragma once
#include "comm/communicator.h"
#include "config/experiment.h"

namespace longhaul {

/// Trains an experiment to its last step, or finds it finished; collective. Returns 0; throws Error for everything that
/// ends a run early (a NaN loss names its step). Writes into job.folder: experiment.yaml, metrics.jsonl, checkpoints/,
/// export/.
int train(Communicator& world, const Experiment& experiment);

}  // namespace longhaul
