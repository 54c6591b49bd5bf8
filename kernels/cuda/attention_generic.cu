// Attention of any head_dim up to 256 in bf16 or float32, forward and backward: a thread a query, or a thread a key.
// Plain, without atomics or shared memory, every sum in one order: what runs where the fast kernels refuse, and their
// oracle on a device.
#include "kernels/cuda/generic.cuh"
#include "kernels/cuda/launch.h"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 64, kMostHeadDim = 256;

// Indexed at run time, so it lies in local memory: registers would not hold it.
struct Row {
  float value[kMostHeadDim];
};
GPU_DEVICE void load_row(Row& row, const void* from, Type type, std::int64_t at, int d) {
#pragma unroll 1
  for (int c = 0; c < d; c += 4) {
    float x[4];
    load_four(x, from, type, at + c, d % 4 == 0, d - c);
    for (int e = 0; e < 4; e++) row.value[c + e] = x[e];
  }
}
GPU_DEVICE void clear(Row& row, int d) {
#pragma unroll 1
  for (int c = 0; c < d; c += 4)
    for (int e = 0; e < 4; e++) row.value[c + e] = 0;
}
GPU_DEVICE float dot(const Row& row, const void* with, Type type, std::int64_t at, int d) {
  float sum = 0;
#pragma unroll 1
  for (int c = 0; c < d; c += 4) {
    float x[4];
    load_four(x, with, type, at + c, d % 4 == 0, d - c);
    for (int e = 0; e < 4; e++) sum += row.value[c + e] * x[e];
  }
  return sum;
}
// row += factor x
GPU_DEVICE void add_scaled(Row& row, float factor, const void* from, Type type, std::int64_t at, int d) {
#pragma unroll 1
  for (int c = 0; c < d; c += 4) {
    float x[4];
    load_four(x, from, type, at + c, d % 4 == 0, d - c);
    for (int e = 0; e < 4; e++) row.value[c + e] += factor * x[e];
  }
}
GPU_DEVICE void store_row(const Row& row, float factor, void* to, Type type, std::int64_t at, int d, bool accumulate) {
#pragma unroll 1
  for (int c = 0; c < d; c++)
    store_element(to, type, at + c, row.value[c] * factor + (accumulate ? load_element(to, type, at + c) : 0.0f));
}

// What a query sees: keys whose index is in [first, last].
struct Interval {
  int first, last;
  GPU_DEVICE bool holds(int index) const { return first <= index && index <= last; }
};
GPU_DEVICE Interval interval_of(const GenericAttention& p, std::int64_t query) {
  const int own = gpu::global_load(p.query_index + query), start = gpu::global_load(p.key_start + query);
  const int window = GPU_FAULT(generic_attention_window) ? p.window - 1 : p.window;
  return {p.window > 0 ? gpu::maximum(start, own - window + 1) : start, own};
}
struct Score {
  float value, slope;  // slope: of value by the product of query and key
};
GPU_DEVICE Score score_of(const GenericAttention& p, float product) {
  const float x = p.scale * product;
  if (p.soft_cap <= 0) return {x, p.scale};
  const float t = tanhf(x / p.soft_cap);
  return {p.soft_cap * t, p.scale * (1 - t * t)};
}
GPU_DEVICE std::int64_t query_at(const GenericAttention& p, std::int64_t token, int head) {
  return (token * p.heads + head) * p.head_dim;
}
GPU_DEVICE std::int64_t key_at(const GenericAttention& p, std::int64_t token, int head) {
  return (token * p.kv_heads + head) * p.head_dim;
}
GPU_DEVICE std::int64_t statistic_at(const GenericAttention& p, int batch, int head, int query) {
  return (static_cast<std::int64_t>(batch) * p.heads + head) * p.queries + query;
}

GPU_KERNEL GPU_LAUNCH_BOUNDS(kThreads, 1) generic_attention_forward_kernel(GPU_PARAMETER GenericAttentionForward call) {
  const GenericAttention& p = call.problem;
  const int query = gpu::block_x() * kThreads + gpu::thread_index(), head = gpu::block_y(), batch = gpu::block_z();
  if (query >= p.queries) return;
  const int kv_head = head / (p.heads / p.kv_heads);
  const std::int64_t token = static_cast<std::int64_t>(batch) * p.queries + query;
  const Interval sees = interval_of(p, token);
  Row q, out;
  load_row(q, p.q, p.type, query_at(p, token, head), p.head_dim);
  clear(out, p.head_dim);
  float top = -1e30f, sum = 0;
  for (int key = 0; key < p.keys; key++) {
    const std::int64_t key_token = static_cast<std::int64_t>(batch) * p.keys + key;
    if (!sees.holds(gpu::global_load(p.key_index + key_token))) continue;
    const std::int64_t at = key_at(p, key_token, kv_head);
    const float score = score_of(p, dot(q, p.k, p.type, at, p.head_dim)).value;
    if (score > top) {  // all so far is relative to the greatest
      const float keep = gpu::exp2_fast((top - score) * kLogarithmOf2E);
      sum *= keep;
#pragma unroll 1
      for (int c = 0; c < p.head_dim; c += 4)
        for (int e = 0; e < 4; e++) out.value[c + e] *= keep;
      top = score;
    }
    const float weight = gpu::exp2_fast((score - top) * kLogarithmOf2E);
    sum += weight;
    add_scaled(out, weight, p.v, p.type, at, p.head_dim);
  }
  store_row(out, sum > 0 ? 1 / sum : 0.0f, call.out, call.out_type, query_at(p, token, head), p.head_dim, false);
  gpu::global_store(call.log_sum_exp + statistic_at(p, batch, head, query),
                    sum > 0 ? top + logf(sum) : -__builtin_huge_valf());
}

GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) attention_delta_kernel(GPU_PARAMETER AttentionDelta p) {
  for_each_element(static_cast<std::int64_t>(p.batch) * p.queries * p.heads, [&](std::int64_t i) {
    const std::int64_t at = i * p.head_dim;
    float sum = 0;
    for (int d = 0; d < p.head_dim; d++)
      sum += load_element(p.out, p.out_type, at + d) * load_element(p.dout, p.dout_type, at + d);
    gpu::global_store(p.delta + i, sum);
  });
}

GPU_KERNEL GPU_LAUNCH_BOUNDS(kThreads, 1)
    generic_attention_query_gradients(GPU_PARAMETER GenericAttentionBackward call) {
  const GenericAttention& p = call.problem;
  const int query = gpu::block_x() * kThreads + gpu::thread_index(), head = gpu::block_y(), batch = gpu::block_z();
  if (query >= p.queries) return;
  const int kv_head = head / (p.heads / p.kv_heads);
  const std::int64_t token = static_cast<std::int64_t>(batch) * p.queries + query, own = query_at(p, token, head),
                     statistic = statistic_at(p, batch, head, query);
  const Interval sees = interval_of(p, token);
  const float total = gpu::global_load(call.log_sum_exp + statistic),
              delta = gpu::global_load(call.delta + token * p.heads + head);
  Row q, dout, dq;
  load_row(q, p.q, p.type, own, p.head_dim);
  load_row(dout, call.dout, p.type, own, p.head_dim);
  clear(dq, p.head_dim);
  for (int key = 0; key < p.keys; key++) {
    const std::int64_t key_token = static_cast<std::int64_t>(batch) * p.keys + key;
    if (!sees.holds(gpu::global_load(p.key_index + key_token))) continue;
    const std::int64_t at = key_at(p, key_token, kv_head);
    const Score score = score_of(p, dot(q, p.k, p.type, at, p.head_dim));
    const float weight = gpu::exp2_fast((score.value - total) * kLogarithmOf2E);
    const float slope = weight * (dot(dout, p.v, p.type, at, p.head_dim) - delta) * score.slope;
    add_scaled(dq, slope, p.k, p.type, at, p.head_dim);
  }
  store_row(dq, 1, call.dq, call.dq_type, own, p.head_dim, call.accumulate);
}

GPU_KERNEL GPU_LAUNCH_BOUNDS(kThreads, 1) generic_attention_key_gradients(GPU_PARAMETER GenericAttentionBackward call) {
  const GenericAttention& p = call.problem;
  const int key = gpu::block_x() * kThreads + gpu::thread_index(), kv_head = gpu::block_y(), batch = gpu::block_z();
  if (key >= p.keys) return;
  const int group = p.heads / p.kv_heads;
  const std::int64_t key_token = static_cast<std::int64_t>(batch) * p.keys + key, own = key_at(p, key_token, kv_head);
  const int index = gpu::global_load(p.key_index + key_token);
  Row k, v, dk, dv;
  load_row(k, p.k, p.type, own, p.head_dim);
  load_row(v, p.v, p.type, own, p.head_dim);
  clear(dk, p.head_dim);
  clear(dv, p.head_dim);
  for (int query = 0; query < p.queries; query++) {
    const std::int64_t token = static_cast<std::int64_t>(batch) * p.queries + query;
    if (!interval_of(p, token).holds(index)) continue;
    for (int head = kv_head * group; head < (kv_head + 1) * group; head++) {
      const std::int64_t at = query_at(p, token, head), statistic = statistic_at(p, batch, head, query);
      const Score score = score_of(p, dot(k, p.q, p.type, at, p.head_dim));
      const float weight =
          gpu::exp2_fast((score.value - gpu::global_load(call.log_sum_exp + statistic)) * kLogarithmOf2E);
      const float slope =
          weight * (dot(v, call.dout, p.type, at, p.head_dim) - gpu::global_load(call.delta + token * p.heads + head)) *
          score.slope;
      add_scaled(dv, weight, call.dout, p.type, at, p.head_dim);
      add_scaled(dk, slope, p.q, p.type, at, p.head_dim);
    }
  }
  store_row(dk, 1, call.dk, call.dkv_type, own, p.head_dim, call.accumulate);
  store_row(dv, 1, call.dv, call.dkv_type, own, p.head_dim, call.accumulate);
}

// As softmax_merge, an element a thread.
GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) generic_merge_kernel(GPU_PARAMETER GenericMerge p) {
  const std::int64_t count = static_cast<std::int64_t>(p.batch) * p.rows * p.heads * p.head_dim;
  for_each_element(count, [&](std::int64_t i) {
    const std::int64_t head = i / p.head_dim % p.heads, row = i / p.head_dim / p.heads % p.rows,
                       at = (i / p.head_dim / p.heads / p.rows * p.heads + head) * p.rows + row;
    const float a = gpu::global_load_mutable(p.log_sum_exp_a + at), b = gpu::global_load(p.log_sum_exp_b + at);
    const float top = gpu::maximum(a, b), own = gpu::global_load_mutable(p.out_a + i);
    if (top == -__builtin_huge_valf()) return gpu::global_store(p.out + i, own);
    const float left = gpu::exp2_fast((a - top) * kLogarithmOf2E), right = gpu::exp2_fast((b - top) * kLogarithmOf2E);
    const float other = gpu::global_load(p.out_b + i);
    gpu::global_store(p.out + i, (own * left + other * right) / (left + right));
  });
}
// After all outputs, which read what it may overwrite.
GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) generic_merge_statistics(GPU_PARAMETER GenericMerge p) {
  for_each_element(static_cast<std::int64_t>(p.batch) * p.rows * p.heads, [&](std::int64_t at) {
    const float a = gpu::global_load_mutable(p.log_sum_exp_a + at), b = gpu::global_load(p.log_sum_exp_b + at);
    const float top = gpu::maximum(a, b);
    if (top == -__builtin_huge_valf()) return gpu::global_store(p.log_sum_exp + at, top);
    gpu::global_store(p.log_sum_exp + at, top + logf(gpu::exp2_fast((a - top) * kLogarithmOf2E) +
                                                     gpu::exp2_fast((b - top) * kLogarithmOf2E)));
  });
}

void check(const char* name, const GenericAttention& p) {
  require(p.head_dim > 0 && p.head_dim <= kMostHeadDim, std::string(name) + ": head_dim must be 1 to " +
                                                            std::to_string(kMostHeadDim) + ", not " +
                                                            std::to_string(p.head_dim));
  require(p.kv_heads > 0 && p.heads % p.kv_heads == 0 && p.window >= 0,
          std::string(name) + ": heads must be a multiple of kv_heads, and window not negative");
}
dim3 grid_of(int tokens, int heads, int batch) {
  return dim3(static_cast<unsigned>(divide_up(tokens, kThreads)), static_cast<unsigned>(heads),
              static_cast<unsigned>(batch));
}

}  // namespace

void generic_attention_forward(const GenericAttentionForward& call, Stream stream) {
  const GenericAttention& p = call.problem;
  check("generic_attention_forward", p);
  if (p.batch == 0 || p.queries == 0) return;
  gpu::launch(generic_attention_forward_kernel, grid_of(p.queries, p.heads, p.batch), kThreads, 0, call,
              native(stream));
}
void attention_delta(const AttentionDelta& call, Stream stream) {
  const std::int64_t count = static_cast<std::int64_t>(call.batch) * call.heads * call.queries;
  if (count == 0) return;
  gpu::launch(attention_delta_kernel, dim3(elementwise_blocks(count)), kElementwiseThreads, 0, call, native(stream));
}
void generic_attention_backward(const GenericAttentionBackward& call, Stream stream) {
  const GenericAttention& p = call.problem;
  check("generic_attention_backward", p);
  if (p.batch == 0) return;
  if (p.queries > 0)
    gpu::launch(generic_attention_query_gradients, grid_of(p.queries, p.heads, p.batch), kThreads, 0, call,
                native(stream));
  if (p.keys > 0)
    gpu::launch(generic_attention_key_gradients, grid_of(p.keys, p.kv_heads, p.batch), kThreads, 0, call,
                native(stream));
}
void generic_merge(const GenericMerge& call, Stream stream) {
  const std::int64_t rows = static_cast<std::int64_t>(call.batch) * call.rows * call.heads;
  if (rows == 0) return;
  gpu::launch(generic_merge_kernel, dim3(elementwise_blocks(rows * call.head_dim)), kElementwiseThreads, 0, call,
              native(stream));
  gpu::launch(generic_merge_statistics, dim3(elementwise_blocks(rows)), kElementwiseThreads, 0, call, native(stream));
}

}  // namespace longhaul::cuda
