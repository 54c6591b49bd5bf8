// From the parallelism that was decided to where things go: the mesh, its axes' meaning, what is sharded, and which
// tokens a rank holds. The only place where the keys of `parallelism` become placement; what runs a model (src/run,
// src/runtime) sees just a mesh and layouts.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "ir/mesh.h"
#include "passes/pass.h"
#include "plan/parallelism.h"

namespace longhaul {

/// The orders in which the tokens of a sequence can be dealt out, the evenest for causal attention first.
inline constexpr TokenOrder token_orders[] = {TokenOrder::balanced, TokenOrder::zigzag, TokenOrder::contiguous};

/// The mesh of data x ring x gather x ulysses ranks, the last next to each other; data is two axes where a shard group
/// takes in a part of it. Sets all of `placement`.
Mesh place_ranks(const ResolvedParallelism& parallel, Placement& placement);

/// `sequence` rounded up so that it divides over the ranks that share one: into equal chunks, for each ring or gather
/// rank two under zigzag and permuted_chunks under balanced.
std::int64_t padded_sequence(const ResolvedParallelism& parallel, std::int64_t sequence);

/// "8 ranks = data 2 x ring 2 x ulysses 2, zigzag order, zero_stage 1", for the log.
std::string describe(const ResolvedParallelism& parallel);

/// The global indices of a rank's slots in the padded sequence (`padded` tokens, a length from padded_sequence), by
/// placement.token_order, which must not be `balanced`:
/// that is TokenPlacement's.
std::vector<std::int32_t> token_order(const Mesh& mesh, const Placement& placement, std::int64_t padded, int rank);
/// The same of all ranks that share a sequence, laid together as the ranks' layouts do.
std::vector<std::int32_t> whole_token_order(const Mesh& mesh, const Placement& placement, std::int64_t padded);

}  // namespace longhaul
