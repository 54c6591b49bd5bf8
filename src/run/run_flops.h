// The model's own operations of a run.
#pragma once
#include "model/flops.h"
#include "run/setup.h"

namespace longhaul {

/// For a token of the run's sequences, with the parameters that it trains.
FlopsPerToken flops_of(const RunSetup& setup);

}  // namespace longhaul
