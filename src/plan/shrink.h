// A smaller run that splits as a large one does: the head counts, lengths and windows that matter to a split, reduced
// so that every relation which decides what is moved stays as it is.
#pragma once
#include <cstdint>
#include <vector>

#include "plan/parallelism.h"

namespace longhaul {

struct HeadCounts {
  std::int64_t heads = 1, kv_heads = 1;
};

/// Fewer heads of the same ratio that divide over the same ranks: KV heads are repeated as often as before, and a rank
/// that had several of them still has. `with_window`: of a layer with a window, which may be split another way.
HeadCounts smaller_heads(const ResolvedParallelism& parallel, HeadCounts heads, bool with_window = false);

/// A shorter sequence, padded by as many tokens as `sequence` is; `sequence` itself when that is short enough.
std::int64_t smaller_sequence(const ResolvedParallelism& parallel, std::int64_t sequence);

/// For each window, of `sequence` tokens, one of a sequence of `smaller` tokens that reaches as many pieces of the
/// sequence back. Windows that differ still do, and keep their order, while a piece has room for that. 0 stays 0.
std::vector<std::int64_t> smaller_windows(const ResolvedParallelism& parallel, std::int64_t sequence,
                                          std::int64_t smaller, const std::vector<std::int64_t>& windows);

/// The same experiment with what `auto` became in its place.
void pin_parallelism(const ResolvedParallelism& parallel, Experiment& experiment);

}  // namespace longhaul
