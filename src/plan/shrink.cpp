#include "plan/shrink.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "plan/mesh.h"
#include "plan/token_placement.h"

namespace longhaul {
namespace {

constexpr std::int64_t slots_of_a_piece = 8;  // tokens of the least piece that a rank may hold,
constexpr std::int64_t least_slots = 32;      // and of a sequence

// How layers with a window are split.
SequenceSplit window_split(const ResolvedParallelism& parallel) {
  return parallel.window_layers.value_or(SequenceSplit{parallel.ulysses, parallel.ring, parallel.gather});
}

/// Tokens that lie together for a layer with a window: what a rank holds of a sequence at its ends.
std::int64_t piece(const ResolvedParallelism& parallel, std::int64_t sequence) {
  const SequenceSplit split = window_split(parallel);
  const std::int64_t pieces = split.ring * split.gather_kv * chunks_of(parallel.token_order);
  return padded_sequence(parallel, sequence) / pieces;
}

}  // namespace

HeadCounts smaller_heads(const ResolvedParallelism& parallel, HeadCounts heads, bool with_window) {
  const std::int64_t ulysses = with_window ? window_split(parallel).ulysses : parallel.ulysses;
  // With g = gcd(KV heads, u) a rank's share of them is decided by g alone: g KV heads do, and any multiple k with the
  // same gcd. u divides g times the ratio whenever it divides the query heads.
  const std::int64_t common = std::gcd(heads.kv_heads, ulysses), ratio = heads.heads / heads.kv_heads;
  std::int64_t kv_heads = common;
  for (std::int64_t k = 2 * common; k <= heads.kv_heads; k += common)
    if (std::gcd(k, ulysses) == common) {
      kv_heads = k;
      break;
    }
  return {kv_heads * ratio, kv_heads};
}

std::int64_t smaller_sequence(const ResolvedParallelism& parallel, std::int64_t sequence) {
  const std::int64_t padded = padded_sequence(parallel, sequence), unit = padded_sequence(parallel, 1);
  const std::int64_t small = unit * std::max(slots_of_a_piece, (least_slots + unit - 1) / unit);
  return padded <= small ? sequence : small - (padded - sequence);
}

std::vector<std::int64_t> smaller_windows(const ResolvedParallelism& parallel, std::int64_t sequence,
                                          std::int64_t smaller, const std::vector<std::int64_t>& windows) {
  const std::int64_t c = piece(parallel, sequence), d = piece(parallel, smaller);
  std::map<std::int64_t, std::int64_t> found;
  for (const std::int64_t window : windows) found[window] = 0;
  std::int64_t last = 0;
  for (auto& [window, small] : found) {
    if (window <= 1) {
      small = window;
    } else {
      // The first token of a piece sees window - 1 tokens before it, so this many pieces back.
      const std::int64_t back = (window - 2) / c + 1;
      const std::int64_t least = (back - 1) * d + 2, most = back * d + 1;
      small = std::clamp((window * d + c / 2) / c, least, most);
      if (small <= last) small = std::min(last + 1, most);
    }
    last = small;
  }
  std::vector<std::int64_t> result;
  for (const std::int64_t window : windows) result.push_back(found.at(window));
  return result;
}

void pin_parallelism(const ResolvedParallelism& parallel, Experiment& experiment) {
  auto& keys = experiment.parallelism;
  keys.data = parallel.data;
  keys.zero_stage = parallel.zero_stage;
  keys.sequence = SequenceSplit{parallel.ulysses, parallel.ring, parallel.gather};
  if (parallel.outer() > 1) keys.token_order = parallel.token_order;
  if (parallel.shard_group) keys.shard_group = parallel.shard_group;
}

}  // namespace longhaul
