// Passes and what they are told. A pass is one file and one line of the pipeline table. The first ones make the
// specification and assign_precision rounds it; all others choose layouts, ops and schedules that mean the same.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ir/graph.h"
#include "ir/verifier.h"
#include "passes/options.h"

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

struct PassContext {
  const CompileOptions& options;
  ProgramKind kind;
  /// Bytes besides named buffers that the program holds at each op, scratch included, where its memory was planned
  /// before the pass.
  std::span<const std::int64_t> live = {};
};

/// Adds a micro-batch's gradient, operand 1, to what the step has so far.
inline bool is_accumulation(const Graph& graph, const Op& op) {
  return op.is("add") && graph[op.operands[0]].role == Role::accumulator;
}

struct Pass {
  std::string_view name;
  void (*run)(Graph&, const PassContext&);
  /// What the verifier holds the graph to after it.
  Stage stage = Stage::one_device;
};

/// The table: every pass in order. The first three make the specification.
const std::vector<Pass>& pipeline();
/// How many of the pipeline's passes make the specification; none of them knows of ranks.
int specification_passes();

/// Called after every pass (and once before the first, with a null pass).
using PassObserver = std::function<void(const Pass*, const Graph&)>;
/// Called after a pass and its verification, before the observer. True when it changed the graph: it then need not be
/// legal any more, and nothing verifies it from there on.
using PassHook = std::function<bool(const Pass&, Graph&, const PassContext&)>;
/// Runs passes [begin, end) of the pipeline on a graph, verifying after each; a violation throws std::logic_error with
/// the pass's name.
void run_passes(Graph& graph, const PassContext& context, int begin, int end, const PassObserver& observer = nullptr,
                const PassHook& after = nullptr);

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
void recompute(Graph&, const PassContext&);
void common_subexpressions(Graph&, const PassContext&);
void expand_window(Graph&, const PassContext&);
void expand_ring(Graph&, const PassContext&);
void fuse(Graph&, const PassContext&);
void keep_gathered(Graph&, const PassContext&);
void tile_mlp(Graph&, const PassContext&);
void chunk_heads(Graph&, const PassContext&);
void lower_reshards(Graph&, const PassContext&);
void place_casts(Graph&, const PassContext&);
void coalesce(Graph&, const PassContext&);
void schedule(Graph&, const PassContext&);
void offload(Graph&, const PassContext&);
void overlap(Graph&, const PassContext&);
}  // namespace passes

}  // namespace longhaul
