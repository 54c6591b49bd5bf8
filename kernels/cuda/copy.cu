// Casts, strided copies (the pack and unpack permutations of an all-to-all) and the merge of partial softmaxes.
#include "kernels/cuda/launch.h"
#include "kernels/cuda/vectors.cuh"

namespace longhaul::cuda {
namespace {

struct CastParameters {
  const void* from;
  void* to;
  std::int64_t count;
};
// Eight elements a thread: 16 bytes on the narrow side.
GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) cast_to_bfloat16(GPU_PARAMETER CastParameters p) {
  for_each_vector<8>(p.count, [&](std::int64_t at, std::int64_t valid) {
    float low[4], high[4], x[8];
    const float* from = static_cast<const float*>(p.from) + at;
    load_vector<float>(low, from, valid);
    load_vector<float>(high, from + 4, valid - 4);
#pragma unroll
    for (int i = 0; i < 4; i++) x[i] = low[i], x[i + 4] = high[i];
    store_vector<gpu::bfloat16>(static_cast<gpu::bfloat16*>(p.to) + at, x, valid);
  });
}
GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) cast_to_float(GPU_PARAMETER CastParameters p) {
  for_each_vector<8>(p.count, [&](std::int64_t at, std::int64_t valid) {
    float low[4], high[4], x[8];
    load_vector<gpu::bfloat16>(x, static_cast<const gpu::bfloat16*>(p.from) + at, valid);
#pragma unroll
    for (int i = 0; i < 4; i++) low[i] = x[i], high[i] = x[i + 4];
    float* to = static_cast<float*>(p.to) + at;
    store_vector<float>(to, low, valid);
    store_vector<float>(to + 4, high, valid - 4);
  });
}

GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) strided_copy_kernel(GPU_PARAMETER StridedCopy p) {
  const std::uint32_t row = static_cast<std::uint32_t>(p.row_bytes / 16);
  const std::uint32_t inner = static_cast<std::uint32_t>(p.extent[2]), middle = static_cast<std::uint32_t>(p.extent[1]);
  for_each_vector<1>(p.extent[0] * p.extent[1] * p.extent[2] * row, [&](std::int64_t at, std::int64_t) {
    const std::uint32_t n = static_cast<std::uint32_t>(at);  // 64-bit division costs as much as the memory access
    const std::int64_t chunk = n % row, k = n / row % inner, j = n / row / inner % middle, i = n / row / inner / middle;
    const char* from = static_cast<const char*>(p.from) + i * p.from_stride[0] + j * p.from_stride[1] +
                       k * p.from_stride[2] + chunk * 16;
    char* to = static_cast<char*>(p.to) + i * p.to_stride[0] + j * p.to_stride[1] + k * p.to_stride[2] + chunk * 16;
    gpu::global_store(reinterpret_cast<uint4*>(to), gpu::global_load_mutable(reinterpret_cast<const uint4*>(from)));
  });
}

// A warp a row of a head.
GPU_KERNEL GPU_LAUNCH_BOUNDS(256, 1) softmax_merge_kernel(GPU_PARAMETER SoftmaxMerge p) {
  const int lane = gpu::thread_index() & 31;
  const std::int64_t item = static_cast<std::int64_t>(gpu::block_x()) * 8 + gpu::thread_index() / 32;
  if (item >= static_cast<std::int64_t>(p.batch) * p.rows * p.heads) return;  // a whole warp
  const std::int64_t head = item % p.heads, row = item / p.heads % p.rows, b = item / p.heads / p.rows;
  const std::int64_t at = (b * p.heads + head) * p.rows + row;
  constexpr float kLog2E = 1.4426950408889634f, kInfinity = __builtin_huge_valf();
  const float old = gpu::global_load_mutable(p.log_sum_exp + at), add = gpu::global_load(p.partial_log_sum_exp + at);
  const float top = gpu::maximum(old, add);
  float keep = 1, take = 0, total = old;
  if (top != -kInfinity) {
    const float sum = gpu::exp2_fast((old - top) * kLog2E) + gpu::exp2_fast((add - top) * kLog2E);
    total = top + gpu::log2_fast(sum) / kLog2E;
    keep = gpu::exp2_fast((old - total) * kLog2E), take = gpu::exp2_fast((add - total) * kLog2E);
  }
  gpu::warp_sync();  // every lane has read the old value
  if (lane == 0 && !GPU_FAULT(softmax_merge_stale_statistics)) gpu::global_store(p.log_sum_exp + at, total);
  for (int d = lane * 4; d < p.head_dim; d += 128) {
    float out[4], partial[4];
    load_vector<float>(out, p.out + item * p.head_dim + d);
    load_vector<float>(partial, p.partial + item * p.head_dim + d);
#pragma unroll
    for (int i = 0; i < 4; i++) out[i] = out[i] * keep + partial[i] * take;
    store_vector<float>(p.out + item * p.head_dim + d, out);
    if (p.out_bfloat16)
      gpu::global_store(reinterpret_cast<uint2*>(static_cast<gpu::bfloat16*>(p.out_bfloat16) + item * p.head_dim + d),
                        uint2{gpu::pack_bfloat16(out[0], out[1]), gpu::pack_bfloat16(out[2], out[3])});
  }
}

}  // namespace

void cast(const void* from, Type from_type, void* to, Type to_type, std::int64_t count, Stream stream) {
  require(from_type != to_type, "cast: both sides have the same type");
  if (count == 0) return;
  const CastParameters p{from, to, count};
  gpu::launch(to_type == Type::bfloat16 ? cast_to_bfloat16 : cast_to_float, dim3(elementwise_blocks(count / 8)),
              kElementwiseThreads, 0, p, native(stream));
}

void load_strided_copy() {
  gpu::load(strided_copy_kernel);
}
void strided_copy(const StridedCopy& call, Stream stream) {
  bool even = call.row_bytes % 16 == 0 && aligned(call.from) && aligned(call.to);
  for (int i = 0; i < 3; i++) even = even && call.from_stride[i] % 16 == 0 && call.to_stride[i] % 16 == 0;
  require(even, "strided_copy: pointers, row_bytes and strides must be multiples of 16 bytes");
  const std::int64_t chunks = call.extent[0] * call.extent[1] * call.extent[2] * (call.row_bytes / 16);
  if (chunks == 0) return;
  require(chunks <= std::int64_t{0xffffffff}, "strided_copy: more than 64 GiB in one call");
  gpu::launch(strided_copy_kernel, dim3(elementwise_blocks(chunks)), kElementwiseThreads, 0, call, native(stream));
}

void softmax_merge(const SoftmaxMerge& call, Stream stream) {
  require(call.head_dim % 4 == 0,
          "softmax_merge: head_dim must be a multiple of 4, not " + std::to_string(call.head_dim));
  const std::int64_t items = static_cast<std::int64_t>(call.batch) * call.rows * call.heads;
  if (items == 0) return;
  gpu::launch(softmax_merge_kernel, dim3(static_cast<unsigned>(divide_up<std::int64_t>(items, 8))), 256, 0, call,
              native(stream));
}

}  // namespace longhaul::cuda
