// What the forward and backward tile loops share.
#pragma once
#include "kernels/cpu/attention_plan.h"
#include "kernels/cpu/attention_tiled.h"
#include "kernels/cpu/thread_pool.h"

namespace longhaul::cpu {

inline TileWidths tile_widths(const AttentionTileKernels& kernels, std::int64_t head_dim) {
  const int dim = static_cast<int>(head_dim), elements = kernels.word_elements;
  const auto round = [](int n) { return (n + 15) / 16 * 16; };
  return {.head_dim = dim, .padded_dim = round(dim), .words = dim / elements, .staged_words = round(dim / elements)};
}

/// Wide heads take smaller blocks, so that a block's operands stay in the second-level cache.
inline int keys_of_block(std::int64_t head_dim) {
  return head_dim > 128 ? key_group : key_block;
}

/// The first element of row `token` of head `head` in a [batch, tokens, heads, head_dim] array, and the distance
/// between the rows of a head.
struct HeadRows {
  std::int64_t tokens, heads, head_dim;
  std::size_t element;  ///< bytes
  std::int64_t stride() const { return heads * head_dim; }
  std::size_t offset(std::int64_t batch, std::int64_t token, std::int64_t head) const {
    return static_cast<std::size_t>(((batch * tokens + token) * heads + head) * head_dim) * element;
  }
  const void* at(const void* array, std::int64_t batch, std::int64_t token, std::int64_t head) const {
    return static_cast<const std::byte*>(array) + offset(batch, token, head);
  }
  RowPrefetch prefetch(const void* array, std::int64_t batch, std::int64_t token, std::int64_t head, int count) const {
    return {at(array, batch, token, head), stride() * static_cast<std::int64_t>(element), count,
            static_cast<int>(head_dim) * static_cast<int>(element)};
  }
  void* at(void* array, std::int64_t batch, std::int64_t token, std::int64_t head) const {
    return static_cast<std::byte*>(array) + offset(batch, token, head);
  }
};
inline HeadRows query_rows(const AttentionProblem& p, DType dtype) {
  return {p.queries, p.heads, p.head_dim, size_of(dtype)};
}
inline HeadRows key_rows(const AttentionProblem& p, DType dtype) {
  return {p.keys, p.kv_heads, p.head_dim, size_of(dtype)};
}

/// The order of tasks (lane, block), a lane being a kv head of a sequence: as many lanes at a time as there are
/// threads, and those block by block. A lane's arrays then stay in the caches while its blocks pass, and threads work
/// on different lanes most of the time. Within a lane blocks ascend.
struct TaskOrder {
  std::int64_t lanes;
  std::int64_t blocks;
  int threads;
  struct Task {
    std::int64_t lane;
    int block;
  };
  std::int64_t size() const { return lanes * blocks; }
  Task operator[](std::int64_t task) const {
    const std::int64_t first = task / (threads * blocks) * threads, rest = task - first * blocks;
    const std::int64_t together = std::min<std::int64_t>(threads, lanes - first);
    return {first + rest % together, static_cast<int>(rest / together)};
  }
};

/// Words are 32 bits, whatever is in them.
using WordStorage = std::uint32_t;

}  // namespace longhaul::cpu
