// What the `auto` keys of `parallelism` and the batch become for a model and a number of ranks, and which requests
// cannot be met.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/experiment.h"

namespace longhaul {

/// What the choice depends on, layer by layer.
struct AttentionLayer {
  std::int64_t heads = 1;   ///< query heads
  std::int64_t window = 0;  ///< keys that a query sees, itself included; 0: all before it
  std::int64_t head_dim = 1;
};

struct ResolvedParallelism {
  std::int64_t data = 1, ulysses = 1, ring = 1, gather = 1, zero_stage = 1;
  std::int64_t shard_group = 0;                ///< neighbouring ranks that zero_stage shards over; 0: all
  std::optional<SequenceSplit> window_layers;  ///< how layers with a window are split, where not as the others
  TokenOrder token_order = TokenOrder::contiguous;
  std::int64_t global_batch_size = 1;   ///< sequences per optimizer step
  std::int64_t accumulation_steps = 1;  ///< micro-batches per optimizer step
  std::vector<std::string> decisions;   ///< what `auto` became and why, for the log
  /// Ranks that share a sequence; those of them that keep their queries throughout.
  std::int64_t sequence() const { return ulysses * outer(); }
  std::int64_t outer() const { return ring * gather; }
  /// Parameters are sharded, so that keep_gathered means something.
  bool gathers_parameters() const { return zero_stage == 3; }
  /// Parameters are gathered in more than one micro-batch of a step.
  bool can_share_gathers() const {
    return zero_stage == 3 && accumulation_steps > 1 && data * sequence() > 1 && shard_group != 1;
  }
};

/// "{ulysses: 2, ring: 4}": the numbers above 1; "{ulysses: 1}" when there is none.
std::string text_of(const SequenceSplit& split);

/// Each rank trains on sequences of its own; state sharded by this ZeRO stage.
ResolvedParallelism data_parallel(std::int64_t ranks, std::int64_t zero_stage);

/// `neighbours`: every run of that many ranks, counted from rank 0, is on one host.
///
/// sequence auto: for world / data ranks (world when data is auto too), ulysses is the largest divisor of them and of
/// `neighbours` that divides the query heads of every layer (without a window, when window_layers is given); ring is
/// the rest. data auto: world / sequence. zero_stage auto: 1. token_order auto, with ring or gather ranks: balanced for
/// packed documents when no layer has a window; else zigzag when some layer has none, else contiguous.
///
/// Throws Error when data x sequence is not the world, when ulysses does not divide the query heads of a layer (naming
/// it and the pairs that would do), when window_layers does not split over the same ranks or no layer has a window,
/// when shard_group is none of shard_groups() or shards nothing, when keep_gathered asks to keep what nobody gathers,
/// or when global_batch_size is no multiple of micro_batch_size x data.
ResolvedParallelism resolve_parallelism(const Experiment& experiment, std::int64_t world, std::int64_t neighbours,
                                        const std::vector<AttentionLayer>& layers);

/// The sizes of groups that state can be sharded over: those of whole axes of the mesh, counted from the fastest, and
/// of such with a divisor of the data-parallel groups. Ascending, from 1 to all ranks.
std::vector<std::int64_t> shard_groups(const ResolvedParallelism& parallel);

}  // namespace longhaul
