// From the parallelism that was asked for to where things go: the mesh, its axes' meaning, and what is sharded. The
// only place where the keys of `parallelism` become placement; what runs a model (src/train, src/runtime) sees just a
// mesh and layouts.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "config/experiment.h"
#include "ir/mesh.h"
#include "passes/pass.h"

namespace longhaul {

/// The mesh of data x sequence ranks, the ranks of one sequence next to each other. Sets the placement fields of
/// `options`: zero_stage, batch_axes, sequence_axes.
Mesh place_ranks(const ResolvedParallelism& parallel, CompileOptions& options);

/// `sequence` rounded up so that it divides over the ranks that share one.
std::int64_t padded_sequence(const ResolvedParallelism& parallel, std::int64_t sequence);

/// The global indices of a rank's slots in a padded sequence of `sequence` tokens, in options.token_order. Ranks that
/// keep their queries (all but ulysses ranks) hold two chunks each under zigzag, one from either end; ulysses ranks
/// share those in order.
std::vector<std::int32_t> token_order(const Mesh& mesh, const CompileOptions& options, std::int64_t sequence, int rank);

/// "8 ranks = data 2 x sequence 4, zero_stage 1", for the log.
std::string describe(const ResolvedParallelism& parallel);

}  // namespace longhaul
