// Embedding lookup, and its gradient without floating-point atomics: tokens are sorted by their id (a stable radix
// sort), then each id's rows are added in the order of the tokens.
#include "kernels/cuda/generic.cuh"
#include "kernels/cuda/launch.h"

namespace longhaul::cuda {
namespace {

constexpr int kBits = 9, kBins = 1 << kBits, kSortBlock = 256;

// One warp a token.
template <typename T>
GPU_KERNEL GPU_LAUNCH_BOUNDS(256, 1) embedding_kernel(GPU_PARAMETER Embedding p) {
  const std::int64_t token = static_cast<std::int64_t>(gpu::block_x()) * 8 + gpu::thread_index() / 32;
  if (token >= p.tokens) return;
  const T* row =
      static_cast<const T*>(p.table) + static_cast<std::int64_t>(gpu::global_load(p.token + token)) * p.columns;
  T* to = static_cast<T*>(p.out) + token * p.columns;
  for (int c = (gpu::thread_index() & 31) * kWidth<T>; c < p.columns; c += 32 * kWidth<T>)
    gpu::global_store(reinterpret_cast<uint4*>(to + c), gpu::global_load(reinterpret_cast<const uint4*>(row + c)));
}

// Any number of columns.
GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) embedding_elements(GPU_PARAMETER Embedding p) {
  for_each_element(p.tokens * p.columns, [&](std::int64_t i) {
    const std::int64_t token = gpu::global_load(p.token + i / p.columns);
    store_element(p.out, p.type, i, load_element(p.table, p.type, token * p.columns + i % p.columns));
  });
}

struct SortParameters {
  const int *id, *place;  // place null: the token's own position
  int *sorted_id, *sorted_place;
  int* offset;  // [kBins][blocks]
  int tokens, blocks, shift;
};
GPU_DEVICE int digit_of(const SortParameters& p, int i) {
  return i < p.tokens ? gpu::global_load_mutable(p.id + i) >> p.shift & (kBins - 1) : -1;
}
// How many tokens of each block have each digit.
GPU_KERNEL GPU_LAUNCH_BOUNDS(kSortBlock, 1) sort_count(GPU_PARAMETER SortParameters p) {
  const int t = gpu::thread_index();
  const std::uint32_t digits = gpu::shared_base();
  gpu::shared_store(digits + t * 4, digit_of(p, gpu::block_x() * kSortBlock + t));
  gpu::block_sync();
  for (int bin = t; bin < kBins; bin += kSortBlock) {
    int count = 0;
    for (int i = 0; i < kSortBlock; i++) count += gpu::shared_load<int>(digits + i * 4) == bin;
    gpu::global_store(p.offset + bin * p.blocks + gpu::block_x(), count);
  }
}
// Exclusive sums over all of `offset`, by one block: each thread a contiguous part, then the parts.
GPU_KERNEL GPU_LAUNCH_BOUNDS(1024, 1) sort_scan(GPU_PARAMETER SortParameters p) {
  const int t = gpu::thread_index(), total = kBins * p.blocks, part = (total + 1023) / 1024;
  const int first = gpu::minimum(t * part, total), last = gpu::minimum(first + part, total);
  int sum = 0;
  for (int i = first; i < last; i++) sum += gpu::global_load_mutable(p.offset + i);
  const std::uint32_t sums = gpu::shared_base();
  gpu::shared_store(sums + t * 4, sum);
  for (int step = 1; step < 1024; step *= 2) {
    gpu::block_sync();
    const int other = t >= step ? gpu::shared_load<int>(sums + (t - step) * 4) : 0;
    if (!GPU_FAULT(sort_scan_barrier)) gpu::block_sync();
    if (other) gpu::shared_store(sums + t * 4, gpu::shared_load<int>(sums + t * 4) + other);
  }
  gpu::block_sync();
  int before = t ? gpu::shared_load<int>(sums + (t - 1) * 4) : 0;
  for (int i = first; i < last; i++) {
    const int count = gpu::global_load_mutable(p.offset + i);
    gpu::global_store(p.offset + i, before);
    before += count;
  }
}
// Every token to its place: the offset of its digit and block, and its rank in the block.
GPU_KERNEL GPU_LAUNCH_BOUNDS(kSortBlock, 1) sort_scatter(GPU_PARAMETER SortParameters p) {
  const int t = gpu::thread_index(), i = gpu::block_x() * kSortBlock + t, digit = digit_of(p, i);
  const std::uint32_t digits = gpu::shared_base();
  gpu::shared_store(digits + t * 4, digit);
  gpu::block_sync();
  if (i >= p.tokens) return;
  int rank = 0;
  for (int j = 0; j < t; j++) rank += gpu::shared_load<int>(digits + j * 4) == digit;
  const int to = gpu::global_load_mutable(p.offset + digit * p.blocks + gpu::block_x()) + rank;
  gpu::global_store(p.sorted_id + to, gpu::global_load_mutable(p.id + i));
  gpu::global_store(p.sorted_place + to, p.place ? gpu::global_load_mutable(p.place + i) : i);
}

struct SegmentParameters {
  const int *id, *place;  // sorted
  const void* dout;
  float* dtable;
  int tokens, columns;
  Type type;
};
// A block that finds the first token of an id adds all of that id.
template <typename T>
GPU_KERNEL GPU_LAUNCH_BOUNDS(128, 1) embedding_segments(GPU_PARAMETER SegmentParameters p) {
  constexpr int W = kWidth<T>;
  const int first = gpu::block_x(), id = gpu::global_load(p.id + first);
  if (first && gpu::global_load(p.id + first - 1) == id) return;
  for (int c = gpu::thread_index() * W; c < p.columns; c += 128 * W) {
    float sum[W] = {};
    for (int i = first; i < p.tokens && gpu::global_load(p.id + i) == id; i++) {
      float x[W];
      load_vector<T>(
          x, static_cast<const T*>(p.dout) + static_cast<std::int64_t>(gpu::global_load(p.place + i)) * p.columns + c);
#pragma unroll
      for (int k = 0; k < W; k++) sum[k] += x[k];
    }
    float* row = p.dtable + static_cast<std::int64_t>(id) * p.columns + c;
#pragma unroll
    for (int k = 0; k < W; k += 4) {
      float old[4];
      load_vector<float>(old, row + k);
#pragma unroll
      for (int e = 0; e < 4; e++) old[e] += sum[k + e];
      store_vector<float>(row + k, old);
    }
  }
}

GPU_KERNEL GPU_LAUNCH_BOUNDS(128, 1) embedding_segment_elements(GPU_PARAMETER SegmentParameters p) {
  const int first = gpu::block_x(), id = gpu::global_load(p.id + first);
  if (first && gpu::global_load(p.id + first - 1) == id) return;
  for (int c = gpu::thread_index(); c < p.columns; c += 128) {
    float sum = 0;
    for (int i = first; i < p.tokens && gpu::global_load(p.id + i) == id; i++)
      sum += load_element(p.dout, p.type, static_cast<std::int64_t>(gpu::global_load(p.place + i)) * p.columns + c);
    float* to = p.dtable + static_cast<std::int64_t>(id) * p.columns + c;
    gpu::global_store(to, gpu::global_load_mutable(to) + sum);
  }
}

int width_of(Type type) {
  return type == Type::bfloat16 ? 8 : 4;
}

}  // namespace

void embedding(const Embedding& call, Stream stream) {
  if (call.tokens == 0) return;
  if (call.columns % width_of(call.type))
    return gpu::launch(embedding_elements, dim3(elementwise_blocks(call.tokens * call.columns)), kElementwiseThreads, 0,
                       call, native(stream));
  gpu::launch(call.type == Type::bfloat16 ? embedding_kernel<gpu::bfloat16> : embedding_kernel<float>,
              dim3(static_cast<unsigned>(divide_up<std::int64_t>(call.tokens, 8))), 256, 0, call, native(stream));
}

std::size_t embedding_workspace(std::int64_t tokens, std::int32_t) {
  return sizeof(int) * (4 * tokens + kBins * divide_up<std::int64_t>(tokens, kSortBlock));
}

void embedding_gradient(const EmbeddingGradient& call, Stream stream) {
  require(call.tokens < 1 << 30 && call.workspace, "embedding_gradient: too many tokens, or workspace is null");
  if (call.tokens == 0) return;
  const int tokens = static_cast<int>(call.tokens);
  int* ids[2] = {static_cast<int*>(call.workspace), static_cast<int*>(call.workspace) + tokens};
  int* places[2] = {ids[1] + tokens, ids[1] + 2 * tokens};
  SortParameters p{call.token, nullptr, ids[0], places[0], places[1] + tokens, tokens, divide_up(tokens, kSortBlock),
                   0};
  int into = 0;
  for (; p.shift == 0 || call.vocabulary > 1ll << p.shift; p.shift += kBits, into ^= 1) {
    p.sorted_id = ids[into], p.sorted_place = places[into];
    gpu::launch(sort_count, dim3(p.blocks), kSortBlock, kSortBlock * 4, p, native(stream));
    gpu::launch(sort_scan, dim3(1), 1024, 4096, p, native(stream));
    gpu::launch(sort_scatter, dim3(p.blocks), kSortBlock, kSortBlock * 4, p, native(stream));
    p.id = p.sorted_id, p.place = p.sorted_place;
  }
  const SegmentParameters segments{p.id, p.place, call.dout, call.dtable, tokens, call.columns, call.type};
  if (call.columns % width_of(call.type))
    return gpu::launch(embedding_segment_elements, dim3(tokens), 128, 0, segments, native(stream));
  gpu::launch(call.type == Type::bfloat16 ? embedding_segments<gpu::bfloat16> : embedding_segments<float>, dim3(tokens),
              128, 0, segments, native(stream));
}

}  // namespace longhaul::cuda
