// The Hopper attention kernels (sm_90a).
#include "kernels/cuda/attention_backward_hopper.cuh"
#include "kernels/cuda/attention_forward_hopper.cuh"
#include "kernels/cuda/attention_launch.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/tensor_map.h"

namespace longhaul::cuda {
namespace {

template <typename C>
void run_forward(const AttentionForward& call, Stream stream) {
  const AttentionShape& s = call.shape;
  const HeadTensor q = input_of("q", call.q, s.queries, s.heads, C::D),
                   k = input_of("k", call.k, s.keys, s.kv_heads, C::D),
                   v = input_of("v", call.v, s.keys, s.kv_heads, C::D);
  const HopperForwardParameters p{tensor_map(q, s.batch, s.queries, s.heads, C::D, 64),
                                  tensor_map(k, s.batch, s.keys, s.kv_heads, C::D, C::kKeys),
                                  tensor_map(v, s.batch, s.keys, s.kv_heads, C::D, C::kKeys),
                                  output_of("out", call.out, call.out_type, false, s.queries, s.heads, C::D),
                                  call.log_sum_exp,
                                  mask_view(call.mask, s),
                                  sizes_of(s)};
  gpu::launch(attention_forward_wgmma<C>, dim3(divide_up(s.queries, C::kQueries), s.heads, s.batch), C::kThreads,
              C::kSharedBytes, p, native(stream));
}

struct BackwardLayout {  // of the Hopper part of the workspace
  std::int64_t query_tiles, sum_count, turn_count;
  explicit BackwardLayout(const AttentionShape& s)
      : query_tiles(divide_up(s.queries, 64)),
        sum_count(s.batch * s.heads * query_tiles * 64 * s.head_dim),
        turn_count(s.batch * s.heads * query_tiles) {}
};

template <typename C>
void run_backward(const AttentionBackward& call, int parts, void* workspace, Stream stream) {
  const AttentionShape& s = call.shape;
  const BackwardLayout layout(s);
  require(2 * layout.turn_count * 64 < std::int64_t{1} << 31,
          "attention_backward: batch * heads * queries must stay below 2^30 for the Hopper kernel");
  float* sums = static_cast<float*>(workspace);
  int* turns = reinterpret_cast<int*>(sums + layout.sum_count);
  device::fill(sums, 0, layout.sum_count * sizeof(float) + layout.turn_count * sizeof(int), stream);
  const HeadTensor q = input_of("q", call.q, s.queries, s.heads, C::D),
                   k = input_of("k", call.k, s.keys, s.kv_heads, C::D),
                   v = input_of("v", call.v, s.keys, s.kv_heads, C::D),
                   dout = input_of("dout", call.dout, s.queries, s.heads, C::D);
  AttentionSizes sizes = sizes_of(s);
  sizes.parts = parts, sizes.part_heads = sizes.group / parts;
  const HopperBackwardParameters p{
      tensor_map(q, s.batch, s.queries, s.heads, C::D, C::kQueries),
      tensor_map(dout, s.batch, s.queries, s.heads, C::D, C::kQueries),
      tensor_map(k, s.batch, s.keys, s.kv_heads, C::D, C::kKeys),
      tensor_map(v, s.batch, s.keys, s.kv_heads, C::D, C::kKeys),
      output_of("dk", call.dk, call.dkv_type, call.accumulate_dkv, s.keys, s.kv_heads, C::D),
      output_of("dv", call.dv, call.dkv_type, call.accumulate_dkv, s.keys, s.kv_heads, C::D),
      statistics_of(s, call.workspace, kBackwardPadding),
      sums,
      turns,
      !call.unordered_dq,
      mask_view(call.mask, s),
      sizes};
  gpu::launch(attention_backward_wgmma<C>, dim3(divide_up(s.keys, C::kKeys), s.kv_heads * parts, s.batch), C::kThreads,
              C::kSharedBytes, p, native(stream));
  const QueryGradientParameters out{
      sums, output_of("dq", call.dq, call.dq_type, call.accumulate_dq, s.queries, s.heads, C::D), sizes};
  gpu::launch(attention_backward_dq_out<C::D>, dim3(layout.query_tiles, s.heads, s.batch), 256, 0, out, native(stream));
}

}  // namespace

void attention_forward_hopper(const AttentionForward& call, Stream stream) {
  if (call.shape.head_dim == 64) run_forward<HopperForward64>(call, stream);
  if (call.shape.head_dim == 128) run_forward<HopperForward128>(call, stream);
  if (call.shape.head_dim == 256) run_forward<HopperForward256>(call, stream);
}

std::size_t attention_backward_hopper_bytes(const AttentionShape& s) {
  const BackwardLayout layout(s);
  return layout.sum_count * sizeof(float) + layout.turn_count * sizeof(int);
}

void attention_backward_hopper(const AttentionBackward& call, int parts, void* workspace, Stream stream) {
  if (call.shape.head_dim == 64) run_backward<HopperBackward64>(call, parts, workspace, stream);
  if (call.shape.head_dim == 128) run_backward<HopperBackward128>(call, parts, workspace, stream);
}

}  // namespace longhaul::cuda
