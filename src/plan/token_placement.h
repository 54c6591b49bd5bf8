// Which tokens of a sequence each rank holds, when that depends on where its documents end, and how much attention that
// makes for each rank.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "ir/mesh.h"
#include "passes/pass.h"
#include "plan/parallelism.h"

namespace longhaul {

/// Chunks of a sequence that a rank (those of ulysses together) holds in a permuted order. Enough that documents of any
/// lengths can be shared out within a few percent, and few enough that a chunk of long sequences fills tiles of the
/// attention kernels.
inline constexpr std::int64_t permuted_chunks = 8;

/// Chunks of a sequence that each rank holds which keeps its queries.
constexpr std::int64_t chunks_of(TokenOrder order) {
  return order == TokenOrder::balanced ? permuted_chunks : order == TokenOrder::zigzag ? 2 : 1;
}

/// What attention costs the ranks among which it is shared out, in visible (query, key) pairs, summed over layers, each
/// weighted with its heads x head_dim.
struct AttentionShares {
  int ranks = 1;
  bool steps = false;           ///< a ring: in step j rank i has the keys of rank i - j, and all wait for each other
  std::vector<double> between;  ///< [ranks, ranks]: queries of one rank, keys of another

  AttentionShares& operator+=(const AttentionShares& other);
  double work(int rank) const;
  double mean() const;
  double busiest() const;  ///< the largest work
  /// What all take together: busiest(), or the sum over steps of the busiest rank of each.
  double path() const;
};

/// The places of tokens by Placement::token_order. A permuted order is made here, for one sequence at a time: it
/// is cut into permuted_chunks chunks of equal length for each rank along the sequence axes outside ulysses, and each
/// rank gets as many. Several dealings are tried: chunks, pairs and fours of neighbouring chunks, the largest first to
/// the rank with the least so far, then exchanges with the busiest while they help; zigzag; contiguous. The one with
/// the shortest path is taken, so that attention never takes longer than under zigzag or contiguous order of the same
/// padded length. (A ring of more than 128 ranks goes by the largest work instead.) A rank's chunks lie in its buffers
/// in the order of the sequence. All ranks get the same from the same documents; nothing is exchanged.
///
/// `starts` below: the indices at which a sequence's documents begin, ascending, the first 0 ({0}: all tokens see each
/// other); `length`: its tokens without padding.
class TokenPlacement {
 public:
  /// For sequences of `padded` tokens, a length from padded_sequence. `layers`: every attention layer of the model;
  /// those with a window that are split another way do not count, unless there are no others.
  TokenPlacement(const Mesh& mesh, const Placement& placement, std::int64_t padded,
                 const std::vector<AttentionLayer>& layers);

  /// The global indices of a rank's slots in the padded sequence. Valid until the next call.
  std::span<const std::int32_t> order(int rank, std::span<const std::int32_t> starts, std::int32_t length);
  /// The same of all ranks that share a sequence, laid together as the ranks' layouts do.
  std::span<const std::int32_t> whole_order(std::span<const std::int32_t> starts, std::int32_t length);

  /// Among how many ranks attention is shared out; those of ulysses share one's part evenly and count as one.
  int holders() const { return holders_; }
  AttentionShares shares(std::span<const std::int32_t> starts, std::int32_t length);

 private:
  struct Kind {
    std::int64_t window = 0;
    double weight = 0;
  };
  struct Range {
    std::int64_t begin = 0, end = 0;
  };
  double visible(Range queries, Range keys, std::span<const std::int32_t> starts, std::int32_t length) const;
  double path_of_dealing();
  void deal_by_work(std::int32_t unit);
  void deal(std::span<const std::int32_t> starts, std::int32_t length);

  const Mesh mesh_;
  AxisList axes_;  // that split a sequence
  int holders_ = 1;
  bool permuted_ = false;
  std::vector<Kind> kinds_;
  std::vector<std::int32_t> whole_;  // indices by slot, of the sequence asked for last when they depend on it
  // What deal() needs, kept so that it allocates once.
  std::vector<double> chunk_work_, pair_work_;  // of a chunk; of a chunk's queries with another's keys, row by row
  std::vector<double> unit_work_, load_;
  AttentionShares shares_;
  std::vector<std::int32_t> by_work_, count_, unit_owner_, owner_, best_owner_;
};

}  // namespace longhaul
