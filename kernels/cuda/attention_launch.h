// From the API's structures to the attention kernels' parameters.
#pragma once
#include "kernels/cuda/attention_common.cuh"
#include "kernels/cuda/launch.h"

namespace longhaul::cuda {

inline Strides strides_of(const HeadMatrix& matrix, std::int64_t rows, std::int64_t heads, std::int64_t head_dim) {
  if (matrix.batch_stride || matrix.row_stride || matrix.head_stride)
    return {matrix.batch_stride, matrix.row_stride, matrix.head_stride};
  return {rows * heads * head_dim, heads * head_dim, head_dim};
}
inline Strides checked_strides(const char* name, const HeadMatrix& matrix, std::int64_t rows, std::int64_t heads,
                               std::int64_t head_dim) {
  require(matrix.data, std::string("attention: ") + name + " is null");
  const Strides strides = strides_of(matrix, rows, heads, head_dim);
  require(
      aligned(matrix.data) && strides.batch % 8 == 0 && strides.row % 8 == 0 && strides.head % 8 == 0,
      std::string("attention: ") + name + " must be 16-byte aligned, with strides that are multiples of 8 elements");
  return strides;
}
inline HeadTensor input_of(const char* name, const HeadMatrix& matrix, std::int64_t rows, std::int64_t heads,
                           std::int64_t head_dim) {
  return {static_cast<const gpu::bfloat16*>(matrix.data), checked_strides(name, matrix, rows, heads, head_dim)};
}
inline HeadOutput output_of(const char* name, const HeadMatrix& matrix, Type type, bool accumulate, std::int64_t rows,
                            std::int64_t heads, std::int64_t head_dim) {
  require(!accumulate || type == Type::float32,
          std::string("attention: ") + name + " can accumulate only in float32, not in bfloat16");
  return {matrix.data, checked_strides(name, matrix, rows, heads, head_dim), type == Type::float32, accumulate};
}
inline AttentionSizes sizes_of(const AttentionShape& s) {
  require(s.batch > 0 && s.queries > 0 && s.keys > 0 && s.heads > 0 && s.kv_heads > 0 && s.heads % s.kv_heads == 0,
          "attention: sizes must be positive, and kv_heads must divide heads (got " + std::to_string(s.heads) +
              " and " + std::to_string(s.kv_heads) + ")");
  return {s.heads, s.heads / s.kv_heads, s.queries, s.keys, s.scale};
}

/// AttentionShape::parts, settled: the least divisor of the group that gives 1536 blocks, some twelve to each
/// multiprocessor of a large GPU. Fewer leave many of them without work behind a causal mask, whose blocks differ in
/// length (benchmarks/gpu/backward_blocks.py).
inline int parts_of(const AttentionShape& s) {
  const int group = s.heads / s.kv_heads;
  require(s.parts >= 0 && (s.parts == 0 || group % s.parts == 0),
          "attention_backward: parts must divide the " + std::to_string(group) + " query heads of a kv head, not " +
              std::to_string(s.parts));
  if (s.parts > 0) return s.parts;
  const std::int64_t wanted = 1536, blocks = divide_up<std::int64_t>(s.keys, 128) * s.kv_heads * s.batch;
  for (int parts = 1; parts < group; parts++)
    if (group % parts == 0 && blocks * parts >= wanted) return parts;
  return group;
}

/// A mask in memory: ranges [b][s] int2, key index [b][t] int, query bounds, key bounds; each part 16-byte aligned.
struct MaskLayout {
  std::size_t key_index, query_bounds, key_bounds, bytes;
  int query_granules, key_granules;
  MaskLayout(std::int64_t batch, std::int64_t queries, std::int64_t keys) {
    auto round = [](std::size_t bytes_) { return (bytes_ + 15) / 16 * 16; };
    query_granules = static_cast<int>(divide_up<std::int64_t>(queries, kGranule));
    key_granules = static_cast<int>(divide_up<std::int64_t>(keys, kGranule));
    key_index = round(batch * queries * sizeof(int2));
    query_bounds = key_index + round(batch * keys * sizeof(int));
    key_bounds = query_bounds + batch * query_granules * sizeof(int4);
    bytes = key_bounds + round(batch * key_granules * sizeof(int2));
  }
};
inline MaskView mask_view(const void* mask, const AttentionShape& s) {
  require(mask, "attention: mask is null; attention_mask makes one");
  const MaskLayout layout(s.batch, s.queries, s.keys);
  const char* base = static_cast<const char*>(mask);
  return {reinterpret_cast<const int2*>(base),
          reinterpret_cast<const int*>(base + layout.key_index),
          reinterpret_cast<const int4*>(base + layout.query_bounds),
          reinterpret_cast<const int2*>(base + layout.key_bounds),
          layout.query_granules,
          layout.key_granules};
}

/// The first part of a backward workspace.
inline BackwardStatistics statistics_of(const AttentionShape& s, void* workspace, int padding) {
  const int padded = divide_up(s.queries, padding) * padding;
  float* base = static_cast<float*>(workspace);
  return {base, base + static_cast<std::int64_t>(s.batch) * s.heads * padded, padded};
}

}  // namespace longhaul::cuda
