// Times whole optimizer steps and says where the time goes.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "comm/communicator.h"
#include "config/experiment.h"

namespace longhaul {

struct BenchStepOptions {
  std::int64_t steps = 5;  ///< timed
  /// Before them; the first step also touches memory. Unless set 1, or 2 with device.graphs, captured in the second.
  std::optional<std::int64_t> warmup = {};
  bool row = false;  ///< one line instead of the report
  /// Computation takes at least what device.profile says of it, by timers, and nothing else of the machine's time
  /// counts.
  bool paced = false;
  std::filesystem::path trace;  ///< a file for the last timed step, one row a rank and queue; empty: none
};

/// Trains the experiment's first steps without writing anything: its own model, weights and data (random tokens when
/// data.files do not exist). Rank 0 prints seconds a step (all, minimum, median), the losses, model FLOPs as a fraction
/// of the FMA peak measured in bursts between the steps in this process, CPU time of all ranks over wall time (the
/// cores that they really had), the share of the ranks' time that they waited for one another, communicated, and copied
/// around communication, and the share of each op; with a device.profile also the time that it predicts, of the step
/// and of each op. As a row: ranks, seconds of the fastest step, median, CPU time over wall time of the fastest step,
/// and the three shares in percent. Collective.
void bench_step(Communicator& world, const Experiment& experiment, const BenchStepOptions& options);

}  // namespace longhaul
