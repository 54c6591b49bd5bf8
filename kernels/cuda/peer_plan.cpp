// The address plans of peer_plan.h. Host code only.
#include "kernels/cuda/peer_plan.h"

namespace longhaul::cuda {

template <typename Copy>
static PeerPlan for_peers(std::int32_t rank, std::int32_t ranks, Copy copy) {
  PeerPlan plan;
  for (std::int32_t i = 1; i <= ranks; i++) plan.push_back(copy((rank + i) % ranks));  // each starts with another peer
  return plan;
}

PeerPlan plan_all_to_all(std::int32_t rank, std::int32_t ranks, std::int64_t bytes_per_peer) {
  return for_peers(rank, ranks, [=](std::int32_t peer) {
    return PeerCopy{peer, peer * bytes_per_peer, rank * bytes_per_peer, {1, 1}, bytes_per_peer, {0, 0}, {0, 0}};
  });
}

PeerPlan plan_all_gather(std::int32_t rank, std::int32_t ranks, std::int64_t bytes) {
  return for_peers(rank, ranks, [=](std::int32_t peer) {
    return PeerCopy{peer, 0, rank * bytes, {1, 1}, bytes, {0, 0}, {0, 0}};
  });
}

PeerPlan plan_scatter(std::int32_t rank, std::int32_t ranks, std::int64_t bytes, std::int64_t chunk_bytes) {
  return for_peers(rank, ranks, [=](std::int32_t peer) {
    const std::int64_t from = peer * chunk_bytes, left = bytes > from ? bytes - from : 0;
    return PeerCopy{peer, from, rank * chunk_bytes, {1, 1}, left < chunk_bytes ? left : chunk_bytes, {0, 0}, {0, 0}};
  });
}

PeerPlan plan_sequence_to_heads(std::int32_t rank, std::int32_t ranks, std::int64_t batch, std::int64_t rows,
                                std::int64_t heads, std::int64_t head_bytes) {
  const std::int64_t part = heads / ranks * head_bytes, whole = heads * head_bytes;
  return for_peers(rank, ranks, [=](std::int32_t peer) {
    return PeerCopy{peer, peer * part,           rank * rows * part,         {batch, rows},
                    part, {rows * whole, whole}, {ranks * rows * part, part}};
  });
}

PeerPlan plan_heads_to_sequence(std::int32_t rank, std::int32_t ranks, std::int64_t batch, std::int64_t rows,
                                std::int64_t heads, std::int64_t head_bytes) {
  const std::int64_t part = heads / ranks * head_bytes, whole = heads * head_bytes;
  return for_peers(rank, ranks, [=](std::int32_t peer) {
    return PeerCopy{peer, peer * rows * part,          rank * part,          {batch, rows},
                    part, {ranks * rows * part, part}, {rows * whole, whole}};
  });
}

AllReducePlan plan_all_reduce(std::int32_t ranks, std::int64_t bytes) {
  if (bytes <= kOneShotBytes) return {true, 0, ranks * bytes};
  const std::int64_t chunk = (bytes + ranks * 16 - 1) / (ranks * 16) * 16;
  return {false, chunk, 2 * ranks * chunk};  // contributions to the own chunk, then everybody's chunks
}

}  // namespace longhaul::cuda
