// What a run takes under a rule for its activations, and the longest sequence that it can have in its memory: by
// compilations, never by a formula.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

#include "plan/alternatives.h"
#include "run/setup.h"

namespace longhaul {

/// Sets a placed run's request to compile under a policy: of `chosen` within the run's limit of memory, or the plan
/// that takes least when none is (`least`: in any case). Under `keep` and `chosen` without a limit everything is as the
/// experiment says. False when it is known not to fit.
bool apply_policy(RunSetup& setup, LayerPolicy policy, bool least = false);

struct LongestSequence {
  std::int64_t tokens = 0;  ///< a multiple of `step`; 0: not even `step` tokens fit
  std::int64_t step = 0;
  std::int64_t bytes = 0;  ///< that a rank then takes, as little as can be
  std::int64_t limit = 0;  ///< that it may take
  std::string stopped_by;  ///< what one step more would take and where, or what else refuses it
  int compilations = 0;
};

/// Searches among multiples of 1024 tokens (or of the next length that divides over the ranks of a sequence). Throws
/// Error when nothing limits memory.
LongestSequence longest_sequence(const Experiment& experiment, const LoadedModel& model, int ranks, const Hosts& hosts,
                                 LayerPolicy policy = LayerPolicy::chosen);

/// "accumulate_only at instruction 643 (einsum of layer 3): saved activations 218103808, transients 417333248"
std::string describe_peak(const CompiledModel& model);

}  // namespace longhaul
