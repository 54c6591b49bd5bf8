// A run as it would be: its programs, its memory to the byte, and the time that a profile predicts. Nothing of it
// starts, so any number of ranks will do.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "compile/step_time.h"
#include "run/setup.h"

namespace longhaul {

struct PlannedRun {
  RunSetup setup;
  CompiledModel model;
  std::optional<ProgramCost> time;  ///< of a step; none without a profile
  double tokens = 0;                ///< of a step, all ranks together
  double flops = 0;                 ///< the model's own for them, causal, nothing made again (model/flops.h)

  /// Tokens a second, predicted; 0 without a profile.
  double speed() const { return time ? tokens / time->total() : 0; }
  /// The share of the ranks' peak in the run's dtype that `flops` are over the predicted time; 0 without a profile.
  double utilisation() const;
};

/// Throws Error as prepare_run and CostModel::cost do.
PlannedRun plan_run(const Experiment& experiment, const LoadedModel& model, int ranks, const Hosts& hosts);
/// From a set-up run, whose request is compiled as it is.
PlannedRun plan_run(RunSetup setup);

/// Bytes of host memory that a run takes besides its device: what waits there for the backward pass, and a copy of
/// masters and moments (checkpoint.asynchronous).
std::int64_t host_bytes(const PlannedRun& run);

/// What a run would be within another limit of memory.
struct Outlook {
  std::int64_t limit = 0;             ///< bytes of the arena
  std::optional<std::int64_t> bytes;  ///< that it then takes; none: nothing fits
  std::optional<double> seconds;      ///< of a step, predicted
  std::string activations;            ///< what layers make again
};
/// Of a run whose activations are chosen by memory; throws std::logic_error for another.
Outlook outlook(const PlannedRun& run, std::int64_t limit);

/// Another way to do the same, and why it was not taken.
struct OtherRun {
  std::string name;
  std::optional<std::int64_t> bytes;
  std::optional<double> seconds_per_token;
  std::string verdict;
};
/// other_placements of a run, each planned within the same memory: those that fit first, the fastest first.
std::vector<OtherRun> other_runs(const PlannedRun& run);

/// Runs of several kinds with the same ranks and memory (compared_runs).
struct ComparedPlan {
  std::string name;
  std::optional<std::int64_t> bytes;  ///< at the experiment's length
  bool fits = false;
  std::optional<double> speed;  ///< tokens a second, predicted
  std::int64_t longest = 0;     ///< tokens of a sequence that fit; 0: none
  std::string refusal;          ///< why there is no such run
};
std::vector<ComparedPlan> compare_runs(const Experiment& experiment, const LoadedModel& model, int ranks,
                                       const Hosts& hosts);

}  // namespace longhaul
