// From an experiment and a number of ranks to everything that compile and the session need. The one place where `auto`
// becomes numbers.
#pragma once
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "config/experiment.h"
#include "model/huggingface.h"
#include "train/compile.h"

namespace longhaul {

struct RunSetup {
  Experiment experiment;
  LoadedModel model;
  ResolvedParallelism parallel;
  CompileRequest request;
  std::int64_t sequence = 1;  ///< as the experiment says; request.sequence is padded so that it divides over its ranks
  std::vector<std::string> decisions;  ///< what `auto` became, padding, and whatever else a user should know: log them
};

/// Reads the model and resolves parallelism, precision and threads. `ranks_on_host` share the cores of this machine.
/// Throws Error for what cannot be done: a device or key value without an implementation, heads that do not divide, a
/// sequence longer than a learned position table.
RunSetup prepare_run(const Experiment& experiment, int world, int ranks_on_host);

/// How many ranks of the world run on the calling rank's host; collective.
int count_ranks_on_host(Communicator& world);

}  // namespace longhaul
