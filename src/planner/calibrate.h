// Measures the machine that it runs on: the profile that src/cost predicts by.
#pragma once
#include <string>
#include <vector>

#include "base/dtype.h"
#include "comm/communicator.h"
#include "config/experiment.h"
#include "cost/profile.h"

namespace longhaul {

struct CalibrateOptions {
  std::vector<DType> dtypes = {DType::float32, DType::bfloat16};
  bool small = false;  ///< sizes that take a second in all, for tests: rates of no use
};

/// Runs the kernels that runs would take, on all ranks at once, through executors: matrix products by size, attention
/// forward and backward by head_dim, a large sum, single small ops; steps of a small model, for what each op that
/// memory brings makes of it; and collectives between ranks, inside a host and, where there are several, between them.
/// Takes less than two minutes. `experiment`: its device and threads; the rest is not looked at. The same profile on
/// all ranks, that of the slowest; collective.
MachineProfile calibrate(Communicator& world, const Experiment& experiment, const CalibrateOptions& options);

}  // namespace longhaul
