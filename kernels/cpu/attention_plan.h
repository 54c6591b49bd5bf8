// The visible intervals of a whole problem, cut into blocks, strips and panels, with the bounds that decide what is
// skipped.
#pragma once
#include <cstdint>

#include "kernels/cpu/attention_common.h"
#include "kernels/cpu/attention_tile_kernels.h"

namespace longhaul::cpu {

/// Index arrays padded to whole groups, and bounds. Lives in scratch memory; arrays of all sequences of the batch
/// follow each other.
class AttentionPlan {
 public:
  /// Takes its memory from `carver` (null memory: counts only) and, when there is memory, fills it. Query blocks hold
  /// `query_block` rows, a multiple of query_group; key blocks hold `key_rows` keys, a multiple of key_group.
  AttentionPlan(const AttentionProblem& problem, const AttentionTileKernels& kernels, int query_block, int key_rows,
                Carver& carver);

  int query_blocks() const { return query_blocks_; }
  int key_blocks() const { return key_blocks_; }
  std::int64_t padded_queries() const { return padded_queries_; }
  /// First query of a block, queries of the sequence in it, and their number with padding.
  struct Block {
    std::int64_t first;
    int rows;
    int padded_rows;
  };
  Block query_block(int block) const { return make_block(block, query_block_, problem_.queries, padded_queries_); }
  Block key_block(int block) const { return make_block(block, key_block_, problem_.keys, padded_keys_); }

  /// Whether any query of the block may see any key of the block.
  bool visible(std::int64_t batch, int query_block, int key_block) const {
    const std::int32_t* query = query_bounds_ + 2 * (batch * query_blocks_ + query_block);
    const std::int32_t* key = key_bounds_ + 2 * (batch * key_blocks_ + key_block);
    return key[0] <= query[1] && key[1] >= query[0];
  }
  /// The first key block from `key_block` on that the query block sees; key_blocks() when there is none.
  int next_visible(std::int64_t batch, int query_block, int key_block) const {
    while (key_block < key_blocks_ && !visible(batch, query_block, key_block)) ++key_block;
    return key_block;
  }
  TileMask tile(std::int64_t batch, const Block& queries, const Block& keys) const;

 private:
  static Block make_block(int block, int size, std::int64_t count, std::int64_t padded) {
    const std::int64_t first = static_cast<std::int64_t>(block) * size;
    return {first, static_cast<int>(std::min<std::int64_t>(size, count - first)),
            static_cast<int>(std::min<std::int64_t>(size, padded - first))};
  }
  void fill_queries(std::int64_t batch);
  void fill_keys(std::int64_t batch);

  AttentionProblem problem_;
  int strip_, panel_, query_block_, key_block_, query_blocks_, key_blocks_;
  std::int64_t padded_queries_, padded_keys_;
  std::int32_t *query_last_, *query_first_;  // [batch][padded queries]
  std::int32_t* key_index_;                  // [batch][padded keys]
  std::int32_t* strips_;                     // [batch][padded queries / strip][4], see TileMask
  std::int32_t* panels_;                     // [batch][padded keys / panel][2]
  std::int32_t* query_bounds_;               // [batch][query blocks][2]: least first, greatest last
  std::int32_t* key_bounds_;                 // [batch][key blocks][2]: least, greatest
};

}  // namespace longhaul::cpu
