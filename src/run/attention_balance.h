// How evenly the ranks that share sequences share their attention.
#pragma once
#include <cstdint>
#include <span>
#include <string>

#include "data/loader.h"
#include "plan/token_placement.h"
#include "run/setup.h"

namespace longhaul {

struct AttentionImbalance {
  /// The visible (query, key) pairs of the busiest of the ranks that share sequences over those of the average one: 1
  /// is even.
  double work = 1;
  /// The same of what they wait for: where ranks work in steps, the busiest of each step. Attention takes so many times
  /// longer than it would if it were even.
  double path = 1;
};

/// Of the samples of a step, `rows` of them in the same place of every micro-batch, whose ranks' work is summed before
/// the busiest is looked for; the busiest of all micro-batches and data-parallel groups are summed. Counted from what
/// `placement` gives each rank and where the documents end.
AttentionImbalance attention_imbalance(TokenPlacement& placement, SequenceLoader& loader,
                                       std::span<const std::int64_t> samples, std::int64_t rows);

/// That of a run's own token order, and for comparison of the others, on the same samples:
/// "busiest rank / mean: 1.012 in NAME order (NAME 1.214, NAME 1.731)", and the path where it is another.
/// Empty when attention is not split.
std::string describe_imbalance(const RunSetup& setup, SequenceLoader& loader, std::span<const std::int64_t> samples);

}  // namespace longhaul
