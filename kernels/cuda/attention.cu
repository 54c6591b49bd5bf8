// Attention: which kernels run a call, and the portable ones (sm_80 and later).
#include <algorithm>

#include "kernels/cuda/attention_backward.cuh"
#include "kernels/cuda/attention_forward.cuh"
#include "kernels/cuda/attention_launch.h"
#include "kernels/cuda/attention_mask.cuh"

namespace longhaul::cuda {

std::size_t attention_mask_bytes(std::int32_t batch, std::int32_t queries, std::int32_t keys) {
  return MaskLayout(batch, queries, keys).bytes;
}

void attention_mask(const AttentionMask& mask, void* to, Stream stream) {
  require(mask.batch > 0 && mask.queries > 0 && mask.keys > 0 && mask.window >= 0,
          "attention_mask: sizes must be positive and window not negative");
  const MaskLayout layout(mask.batch, mask.queries, mask.keys);
  char* base = static_cast<char*>(to);
  const MaskParameters p{mask.query_index,
                         mask.key_start,
                         mask.key_index,
                         mask.queries,
                         mask.keys,
                         mask.window,
                         reinterpret_cast<int2*>(base),
                         reinterpret_cast<int*>(base + layout.key_index),
                         reinterpret_cast<int4*>(base + layout.query_bounds),
                         reinterpret_cast<int2*>(base + layout.key_bounds),
                         layout.query_granules,
                         layout.key_granules};
  gpu::launch(prepare_mask, dim3(std::max(layout.query_granules, layout.key_granules), mask.batch), 32, 0, p,
              native(stream));
}

std::int64_t attention_shared_bytes(std::int32_t head_dim, std::int32_t backward) {
  if (backward)
    return head_dim == 64 ? std::max(BackwardKeys64::kSharedBytes, BackwardQueries64::kSharedBytes)
                          : std::max(BackwardKeys128::kSharedBytes, BackwardQueries128::kSharedBytes);
  return head_dim == 64    ? Forward64::kSharedBytes
         : head_dim == 128 ? Forward128::kSharedBytes
                           : Forward256::kSharedBytes;
}

namespace {

template <typename C>
void run_forward(const ForwardParameters& p, const AttentionShape& s, Stream stream) {
  gpu::launch(attention_forward<C>, dim3(divide_up(s.queries, C::kQueries), s.heads, s.batch), C::kThreads,
              C::kSharedBytes, p, native(stream));
}

template <typename Keys, typename Queries>
void run_backward(const PrepareParameters& prepare, const BackwardParameters& p, const AttentionShape& s,
                  Stream stream) {
  gpu::launch(attention_backward_prepare<Keys::D>, dim3(prepare.statistics.padded * Keys::D / 1024, s.heads, s.batch),
              128, 0, prepare, native(stream));
  gpu::launch(attention_backward_keys<Keys>, dim3(divide_up(s.keys, Keys::kOwn), s.kv_heads * p.sizes.parts, s.batch),
              Keys::kThreads, Keys::kSharedBytes, p, native(stream));
  gpu::launch(attention_backward_queries<Queries>, dim3(divide_up(s.queries, Queries::kOwn), s.heads, s.batch),
              Queries::kThreads, Queries::kSharedBytes, p, native(stream));
}

// Of dk and dv of the parts, [b, t, kv_heads, parts, d] float32 each; nothing when there is one.
std::int64_t part_elements(const AttentionShape& s, int parts) {
  return parts == 1 ? 0 : static_cast<std::int64_t>(s.batch) * s.keys * s.kv_heads * parts * s.head_dim;
}
std::int64_t statistics_bytes(const AttentionShape& s) {
  const BackwardStatistics statistics = statistics_of(s, nullptr, kBackwardPadding);
  return 2 * static_cast<std::int64_t>(sizeof(float)) * s.batch * s.heads * statistics.padded;
}

bool use_hopper(Implementation implementation) {
  require(implementation != Implementation::hopper || has_hopper_kernels(),
          "attention: the Hopper kernels need a device of compute capability 9.0");
  return implementation != Implementation::portable && has_hopper_kernels();
}

}  // namespace

void attention_forward(const AttentionForward& call, Stream stream) {
  const AttentionShape& s = call.shape;
  require(s.head_dim == 64 || s.head_dim == 128 || s.head_dim == 256,
          "attention_forward: head_dim must be 64, 128 or 256, not " + std::to_string(s.head_dim));
  if (use_hopper(call.implementation)) return attention_forward_hopper(call, stream);
  const ForwardParameters p{input_of("q", call.q, s.queries, s.heads, s.head_dim),
                            input_of("k", call.k, s.keys, s.kv_heads, s.head_dim),
                            input_of("v", call.v, s.keys, s.kv_heads, s.head_dim),
                            output_of("out", call.out, call.out_type, false, s.queries, s.heads, s.head_dim),
                            call.log_sum_exp,
                            mask_view(call.mask, s),
                            sizes_of(s)};
  if (s.head_dim == 64) run_forward<Forward64>(p, s, stream);
  if (s.head_dim == 128) run_forward<Forward128>(p, s, stream);
  if (s.head_dim == 256) run_forward<Forward256>(p, s, stream);
}

std::size_t attention_backward_workspace(const AttentionShape& s) {
  return static_cast<std::size_t>(statistics_bytes(s) + 2 * 4 * part_elements(s, parts_of(s))) +
         attention_backward_hopper_bytes(s);
}

namespace {
// With dk and dv as the kernels write them: a head for each part of a group.
void run_whole(const AttentionBackward& call, int parts, void* hopper_workspace, Stream stream) {
  const AttentionShape& s = call.shape;
  AttentionSizes sizes = sizes_of(s);
  sizes.parts = parts, sizes.part_heads = sizes.group / parts;
  const BackwardStatistics statistics = statistics_of(s, call.workspace, kBackwardPadding);
  const HeadTensor dout = input_of("dout", call.dout, s.queries, s.heads, s.head_dim);
  const PrepareParameters prepare{
      call.out.data,
      call.delta ? Strides{} : checked_strides("out", call.out, s.queries, s.heads, s.head_dim),
      call.out_type == Type::float32,
      dout,
      call.log_sum_exp,
      call.delta,
      statistics,
      sizes};
  if (use_hopper(call.implementation)) {
    const dim3 grid(statistics.padded * s.head_dim / 1024, s.heads, s.batch);
    gpu::launch(s.head_dim == 64 ? attention_backward_prepare<64> : attention_backward_prepare<128>, grid, 128, 0,
                prepare, native(stream));
    return attention_backward_hopper(call, parts, hopper_workspace, stream);
  }
  const BackwardParameters p{
      input_of("q", call.q, s.queries, s.heads, s.head_dim),
      input_of("k", call.k, s.keys, s.kv_heads, s.head_dim),
      input_of("v", call.v, s.keys, s.kv_heads, s.head_dim),
      dout,
      output_of("dq", call.dq, call.dq_type, call.accumulate_dq, s.queries, s.heads, s.head_dim),
      output_of("dk", call.dk, call.dkv_type, call.accumulate_dkv, s.keys, s.kv_heads, s.head_dim),
      output_of("dv", call.dv, call.dkv_type, call.accumulate_dkv, s.keys, s.kv_heads, s.head_dim),
      statistics,
      mask_view(call.mask, s),
      sizes};
  if (s.head_dim == 64) run_backward<BackwardKeys64, BackwardQueries64>(prepare, p, s, stream);
  if (s.head_dim == 128) run_backward<BackwardKeys128, BackwardQueries128>(prepare, p, s, stream);
}
}  // namespace

void attention_backward(const AttentionBackward& call, Stream stream) {
  const AttentionShape& s = call.shape;
  require(s.head_dim == 64 || s.head_dim == 128,
          "attention_backward: head_dim must be 64 or 128, not " + std::to_string(s.head_dim));
  require(call.workspace, "attention_backward: workspace is null");
  (void)sizes_of(s);  // refuses what is no shape
  const int parts = parts_of(s);
  const std::int64_t elements = part_elements(s, parts);
  char* const workspace = static_cast<char*>(call.workspace) + statistics_bytes(s);
  float *dk = reinterpret_cast<float*>(workspace), *dv = dk + elements;
  if (parts == 1) return run_whole(call, parts, workspace, stream);
  const std::int64_t row = static_cast<std::int64_t>(s.kv_heads) * parts * s.head_dim;
  AttentionBackward by_parts = call;
  by_parts.dk = {dk, s.keys * row, row, s.head_dim}, by_parts.dv = {dv, s.keys * row, row, s.head_dim};
  by_parts.dkv_type = Type::float32, by_parts.accumulate_dkv = 0;
  run_whole(by_parts, parts, dv + elements, stream);
  const PartSumParameters sum{
      dk,
      dv,
      output_of("dk", call.dk, call.dkv_type, call.accumulate_dkv, s.keys, s.kv_heads, s.head_dim),
      output_of("dv", call.dv, call.dkv_type, call.accumulate_dkv, s.keys, s.kv_heads, s.head_dim),
      s.keys,
      s.kv_heads,
      parts,
      s.head_dim};
  gpu::launch(attention_backward_part_sum,
              dim3(divide_up(s.keys * s.kv_heads * s.head_dim / 4, 256), 2, static_cast<unsigned>(s.batch)), 256, 0,
              sum, native(stream));
}

}  // namespace longhaul::cuda
