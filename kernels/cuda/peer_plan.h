// Who writes what where in a push collective: host code, the same for every transport.
//
// A rank's workspace, which all its peers can write: a signal area, one 128-byte line a source rank, then two data
// buffers used in turn (epoch & 1). A collective is three launches: *push* writes into the peers' buffers and never
// waits; *signal* sets this rank's line at every peer to the epoch's value; *wait* lets the stream go on when all
// peers' lines here have reached it. Lines only ever grow, so nothing is reset.
//
// Two buffers are enough: a rank pushes epoch e + 2 after its wait of e + 1, so every peer has signalled e + 1, and in
// its stream that came after it had read its buffer of epoch e.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "kernels/cuda/api.h"

namespace longhaul::cuda {

constexpr std::int64_t kSignalStride = 128, kSignalBytes = kSignalStride * kMaximumRanks;

/// A box of rows copied from this rank's `send` to a peer's buffer; offsets and strides in bytes.
struct PeerCopy {
  std::int32_t peer;
  std::int64_t from, to;
  std::array<std::int64_t, 2> extent;
  std::int64_t row_bytes;
  std::array<std::int64_t, 2> from_stride, to_stride;
};
using PeerPlan = std::vector<PeerCopy>;  // one copy a peer, the own rank last: it needs no link

/// Block p of `send` goes to peer p; peers find blocks by source rank.
PeerPlan plan_all_to_all(std::int32_t rank, std::int32_t ranks, std::int64_t bytes_per_peer);
/// All of `send` to everybody, by source rank.
PeerPlan plan_all_gather(std::int32_t rank, std::int32_t ranks, std::int64_t bytes);
/// Chunk p of `send`, the last ones perhaps shorter or empty, to peer p; peers find contributions by source rank.
PeerPlan plan_scatter(std::int32_t rank, std::int32_t ranks, std::int64_t bytes, std::int64_t chunk_bytes);
/// send [batch, rows, heads, head_bytes] -> peers' [batch, ranks * rows, heads / ranks, head_bytes].
PeerPlan plan_sequence_to_heads(std::int32_t rank, std::int32_t ranks, std::int64_t batch, std::int64_t rows,
                                std::int64_t heads, std::int64_t head_bytes);
/// send [batch, ranks * rows, heads / ranks, head_bytes] -> peers' [batch, rows, heads, head_bytes].
PeerPlan plan_heads_to_sequence(std::int32_t rank, std::int32_t ranks, std::int64_t batch, std::int64_t rows,
                                std::int64_t heads, std::int64_t head_bytes);

/// An all-reduce of few bytes pushes everything to everybody; a longer one reduces chunks and gathers them. The bits of
/// the result are the same: sums go in rank order.
constexpr std::int64_t kOneShotBytes = 256 << 10;
struct AllReducePlan {
  bool one_shot;
  std::int64_t chunk_bytes;   // of one rank, a multiple of 16
  std::int64_t buffer_bytes;  // that a data buffer must have
};
AllReducePlan plan_all_reduce(std::int32_t ranks, std::int64_t bytes);

}  // namespace longhaul::cuda
