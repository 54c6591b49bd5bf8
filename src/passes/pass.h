// Passes and what they are told. A pass is one file and one line of the pipeline table; it only chooses layouts and
// schedules and never changes what the graph means.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "ir/graph.h"

namespace longhaul {

/// The programs of a run. A step is: count for every micro-batch; accumulate_only, or first, middle..., last; update.
///   evaluate: loss_sum and valid_tokens of a batch. count: valid_tokens.
///   accumulate_*: loss (this micro-batch's share of the mean) and gradients; `first` writes accumulators where
///   `middle` adds, `only` and `last` hand over reduced gradients. update: gradients -> clipped AdamW step; gives
///   grad_norm.
enum class ProgramKind : std::uint8_t {
  evaluate,
  count,
  accumulate_only,
  accumulate_first,
  accumulate_middle,
  accumulate_last,
  update
};
inline constexpr int program_kinds = 7;
std::string_view name_of(ProgramKind kind);
constexpr bool is_accumulate(ProgramKind kind) {
  return kind >= ProgramKind::accumulate_only && kind <= ProgramKind::accumulate_last;
}

struct ParameterInfo {
  std::string name;
  Shape shape;
  bool decays = true;  // weight decay applies
};

/// Where the tokens of a padded sequence lie in the buffers: in order; in 2·n chunks of which rank i of n holds chunks
/// i and 2·n − 1 − i, so that causal attention costs every rank the same; or by any permutation.
enum class TokenOrder : std::uint8_t { contiguous, zigzag, permuted };
std::string_view name_of(TokenOrder order);

/// How long a parameter that ZeRO-3 shards stays whole once it is gathered: until the layer's forward or backward pass
/// is done, from forward to backward, or for all micro-batches of a step.
enum class GatherLifetime : std::uint8_t { phase, backward, step };

/// Everything that passes may decide by. Meaning (loss, optimizer) comes first, then placement.
struct CompileOptions {
  // meaning
  double logits_scale = 1;
  double logits_soft_cap = 0;
  std::vector<ParameterInfo> parameters;
  double max_norm = 1;
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, weight_decay = 0.1;
  // precision
  DType dtype = DType::float32;           // activations and compute
  DType gradient_dtype = DType::float32;  // accumulators
  DType gradient_reduce_dtype = DType::float32;
  // placement
  int zero_stage = 1;
  /// Mesh axes over which batch and sequence are split, by name, major first.
  std::vector<std::string> batch_axes = {"dp"};
  std::vector<std::string> sequence_axes = {"ring", "gather", "ulysses"};
  TokenOrder token_order = TokenOrder::contiguous;
  /// Mesh axes, by name, whose ranks hold copies of the state that zero_stage shards over all other axes.
  std::vector<std::string> replica_axes = {};
  GatherLifetime gather_lifetime = GatherLifetime::phase;
  /// Gradients and parameters travel together up to so many bytes, counted unsharded; 0: each alone.
  std::int64_t bucket_size = 4 << 20;
  /// Layers with a window use the sequence axis of one name as one of another; axes that are left out as their own.
  std::map<std::string, std::string> window_axes;
  std::string fault;  // test hook: a planted fault (LONGHAUL_FAULT)
};

/// float32 for bfloat16 and float32 training, float64 for float64: parameters, moments, statistics.
constexpr DType master_dtype(DType dtype) {
  return dtype == DType::float64 ? DType::float64 : DType::float32;
}

/// The live axes of a mesh that state is sharded over (with a zero_stage that shards it), and those that replicate it.
struct StateAxes {
  AxisList shards, replicas;
};
StateAxes state_axes(const Mesh& mesh, const CompileOptions& options);

struct PassContext {
  const CompileOptions& options;
  ProgramKind kind;
};

struct Pass {
  std::string_view name;
  void (*run)(Graph&, const PassContext&);
  /// Which invariants hold after it (see VerifyOptions).
  bool layouts = false;
  bool lowered = false;
};

/// The table: every pass in order. The first three make the specification.
const std::vector<Pass>& pipeline();
/// How many of the pipeline's passes make the specification; none of them knows of ranks.
int specification_passes();

/// Called after every pass (and once before the first, with a null pass).
using PassObserver = std::function<void(const Pass*, const Graph&)>;
/// Runs passes [begin, end) of the pipeline on a graph, verifying after each; a violation throws std::logic_error with
/// the pass's name.
void run_passes(Graph& graph, const PassContext& context, int begin, int end, const PassObserver& observer = nullptr);

// ---- the passes, one file each
namespace passes {
void loss(Graph&, const PassContext&);
void differentiate(Graph&, const PassContext&);
void optimizer(Graph&, const PassContext&);
void assign_precision(Graph&, const PassContext&);
void tile_loss_head(Graph&, const PassContext&);
void choose_attention(Graph&, const PassContext&);
void shard_state(Graph&, const PassContext&);
void partition(Graph&, const PassContext&);
void common_subexpressions(Graph&, const PassContext&);
void expand_window(Graph&, const PassContext&);
void expand_ring(Graph&, const PassContext&);
void fuse(Graph&, const PassContext&);
void keep_gathered(Graph&, const PassContext&);
void lower_reshards(Graph&, const PassContext&);
void place_casts(Graph&, const PassContext&);
void coalesce(Graph&, const PassContext&);
void schedule(Graph&, const PassContext&);
}  // namespace passes

}  // namespace longhaul
