// What a run could be instead: other ways to place it, and the ways of other programs to compare it with.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "config/experiment.h"
#include "plan/parallelism.h"

namespace longhaul {

/// An experiment and what is said of it.
struct Alternative {
  std::string name;  ///< the keys that make it, as overrides: "parallelism.zero_stage=3"
  Experiment experiment;
};

/// Other placements of the same ranks: another ZeRO stage, and other splits of a sequence over as many ranks, over all
/// of them and over fewer. Keys that the experiment gives stay as they are. Some may be refused.
std::vector<Alternative> other_placements(const Experiment& experiment, const ResolvedParallelism& parallel,
                                          std::int64_t world);

/// What layers keep for their backward pass, by rule instead of by memory.
enum class LayerPolicy : std::uint8_t {
  chosen,             ///< by the experiment: its mode and its budget
  keep,               ///< all
  all_but_attention,  ///< attention's results and what passes between layers; all else is made again
  nothing             ///< what passes between layers; attention is made again too
};

struct ComparedRun {
  std::string name;
  Experiment experiment;
  LayerPolicy policy = LayerPolicy::chosen;
};

/// A run beside what else could be done with its ranks: each one's own sequences; whole sequences split by heads over
/// all of them, keeping all, making all again, or all but attention; and the experiment as it is.
std::vector<ComparedRun> compared_runs(const Experiment& experiment, std::int64_t world);

}  // namespace longhaul
