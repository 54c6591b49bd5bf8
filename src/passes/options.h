// Everything that passes may decide by, in four parts by who may read them: what is computed, in which dtypes, where it
// lies, and when it happens.
#pragma once
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/choices.h"
#include "base/dtype.h"
#include "base/moment_block.h"
#include "base/row_block.h"
#include "ir/layout.h"
#include "ir/mesh.h"

namespace longhaul {

struct Graph;
struct Op;

struct ParameterInfo {
  std::string name;
  Shape shape;
  bool decays = true;     // weight decay applies
  std::int64_t rows = 0;  // Muon's: a matrix of so many rows, its leading dimensions together; 0: AdamW's
};

/// The step on gradients scaled down to a global norm of `max_norm` (0: never).
struct OptimizerSettings {
  OptimizerKind kind = OptimizerKind::adamw;
  double max_norm = 1;
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, weight_decay = 0.1;
  double momentum = 0;  // of sgd, where 0 is without a moment, and of muon
  bool nesterov = false;
};

/// What a run computes; all that the specification depends on besides the model's graph.
struct Meaning {
  double logits_scale = 1;
  double logits_soft_cap = 0;             // 0: none
  std::vector<ParameterInfo> parameters;  // those that are trained; others are read only
  OptimizerSettings optimizer;
  // `token_losses`, [batch, sequence]: each token's own loss is an output too, of evaluation or of training.
  bool evaluated_token_losses = false, trained_token_losses = false;
};

/// float32 for bfloat16 and float32 training, float64 for float64: parameters, moments, statistics.
constexpr DType master_dtype(DType dtype) {
  return dtype == DType::float64 ? DType::float64 : DType::float32;
}

struct Precision {
  DType dtype = DType::float32;     // activations and compute
  DType gradient = DType::float32;  // accumulators
  DType gradient_reduce = DType::float32;
  std::optional<DType> moment = {};  // between steps; none: as masters; uint8: codes with a scale a block
  /// Parameters, statistics; parameter gradients until they are rounded to `gradient`.
  DType master() const { return master_dtype(dtype); }
  DType moments(std::int64_t elements) const {
    const DType stored = moment.value_or(master());
    return stored == DType::uint8 && elements < least_for_8_bits ? DType::float32 : stored;
  }
  /// Shards of state of a parameter of so many elements are whole blocks of so many.
  std::int64_t flat_block(std::int64_t elements) const { return moments(elements) == DType::uint8 ? moment_block : 1; }
  /// Forward and backward read copies of the masters in `dtype`.
  bool copies() const { return dtype != master(); }
};

/// Which state is sharded (over StateAxes::shards); the rest is whole on every rank.
struct StatePlacement {
  bool moments = false;       // and the masters of compute copies
  bool gradients = false;     // reduced ones
  bool accumulators = false;  // else partial sums over all ranks, reduced once a step
  bool parameters = false;    // what the forward pass reads
  bool operator==(const StatePlacement&) const = default;
};
/// By ZeRO stage (arXiv 1910.02054), 0 to 3: each stage shards one kind more.
StatePlacement state_placement(int zero_stage);

/// What the axes of the mesh mean.
struct Placement {
  /// Mesh axes over which batch and sequence are split, by name, major first.
  std::vector<std::string> batch_axes = {"dp"};
  std::vector<std::string> sequence_axes = {"ring", "gather", "ulysses"};
  TokenOrder token_order = TokenOrder::contiguous;
  /// Layers with a window use the sequence axis of one name as one of another; axes that are left out as their own.
  std::map<std::string, std::string> window_axes = {};
  StatePlacement sharded = state_placement(1);
  /// Mesh axes, by name, whose ranks hold copies of the state that is sharded over all other axes.
  std::vector<std::string> replica_axes = {};
};

/// As much memory as there may be.
inline constexpr std::int64_t any_memory = std::numeric_limits<std::int64_t>::max();

/// What is kept, moved and joined when, at the price of memory or messages; it changes neither results nor layouts.
struct Schedule {
  KeepGathered keep_gathered = KeepGathered::never;
  /// Gradients and parameters travel together up to so many bytes, counted unsharded; 0: each alone.
  std::int64_t bucket_size = 4 << 20;
  /// What a layer's backward pass makes again (recompute.h). `recompute_steps`, where it has an entry for a layer, goes
  /// before the mode.
  ActivationMode activations = ActivationMode::automatic;
  std::vector<int> recompute_steps = {};
  /// Whether MLPs work through their rows in tiles (tile_mlp), which begin at multiples of so many rows of a rank:
  /// there kernels begin new sums, so that tiles change no bit; tests take fewer. And attention through the heads of a
  /// rank in chunks (chunk_heads), where it holds 16 times so many rows of a sequence.
  bool tile_mlp = false;
  std::int64_t tile_rows = row_block;
  /// How many of the values that layers keep for their backward pass may go to host memory in between, in the order of
  /// offload.h.
  std::int64_t offload_values = 0;
  /// FLOPs that the machine does while one byte goes from device to host, or back: decides when copies start and which
  /// are worth it. That of a copy within the memory of two CPU cores; a GPU of 600 TFLOP/s on a link of 25 GB/s has
  /// 24000.
  double flops_per_host_byte = 64;
  /// Collectives run beside computation as far as this holds what a program has in memory then, in bytes besides named
  /// buffers and scratch; 0: they take turns.
  std::int64_t overlap_memory = 0;
  /// FLOPs that the machine does while it moves one byte of memory; decides what is cheap to make again. That of two
  /// CPU cores with bfloat16 products, from a step with norms and activations made again; accelerators have about 200.
  double flops_per_byte = 32;
  /// What an op of a placed graph takes instead, in seconds, where a profile of the machine is known; the same on all
  /// ranks. Null: by flops_per_byte.
  std::function<double(const Graph&, const Op&)> seconds = nullptr;
  double seconds_per_host_byte = 1 / 25e9;  ///< beside them: flops_per_host_byte
};

/// Whether memory asks for tiles and chunks: `recompute` is for the least of it.
constexpr bool tiles_mlp(const Schedule& schedule) {
  return schedule.tile_mlp || schedule.activations == ActivationMode::recompute;
}

struct CompileOptions {
  Meaning meaning;
  Precision precision;
  Placement placement;
  Schedule schedule;
};

/// The live axes of a mesh that state is sharded over, where it is, and those that replicate it.
struct StateAxes {
  AxisList shards, replicas;
};
StateAxes state_axes(const Mesh& mesh, const Placement& placement);

}  // namespace longhaul
