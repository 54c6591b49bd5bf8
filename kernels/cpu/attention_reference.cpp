// Attention as it is defined, in plain loops: the oracle. Arithmetic is double for float64 and float otherwise.
#include <cmath>
#include <cstddef>
#include <limits>
#include <type_traits>

#include "base/error.h"
#include "kernels/cpu/attention_common.h"
#include "kernels/cpu/thread_pool.h"

namespace longhaul::cpu::reference {
namespace {

template <typename To, typename From>
To convert(From value) {
  if constexpr (std::is_same_v<To, From>)
    return value;
  else if constexpr (std::is_same_v<From, bfloat16>)
    return static_cast<To>(static_cast<float>(value));
  else if constexpr (std::is_same_v<To, bfloat16>)
    return bfloat16(static_cast<float>(value));
  else
    return static_cast<To>(value);
}

/// Calls function(T{}, U{}) for the storage type of `type` and that of `other`, which is the same or float32.
template <typename Function>
void dispatch_two(DType type, DType other, Function&& function) {
  dispatch_floating(type, [&](auto t) {
    if (other == type)
      function(t, t);
    else if constexpr (std::is_same_v<decltype(t), bfloat16>)
      function(t, float{});
  });
}

/// Where row `token` of head `head` of a [batch, tokens, heads, head_dim] array begins.
struct Rows {
  std::int64_t tokens, heads, head_dim;
  std::int64_t operator()(std::int64_t batch, std::int64_t token, std::int64_t head) const {
    return ((batch * tokens + token) * heads + head) * head_dim;
  }
};
Rows query_rows(const AttentionProblem& p) {
  return {p.queries, p.heads, p.head_dim};
}
Rows key_rows(const AttentionProblem& p) {
  return {p.keys, p.kv_heads, p.head_dim};
}

template <typename A, typename T>
A dot(const T* a, const T* b, std::int64_t n) {
  A sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += convert<A>(a[i]) * convert<A>(b[i]);
  return sum;
}

/// The definition, written out here on its own: an oracle shares nothing with what it checks.
bool visible(const AttentionProblem& p, std::int64_t batch, std::int64_t query, std::int64_t key) {
  const std::int64_t at = p.query_index[batch * p.queries + query], index = p.key_index[batch * p.keys + key];
  const std::int64_t start = p.key_start[batch * p.queries + query];
  return index >= 0 && index >= start && index <= at && (p.window == 0 || index > at - p.window);
}

/// A scaled logit, capped, and the derivative of that by the logit before the cap.
template <typename A>
struct Capped {
  A value, slope;
};
template <typename A>
Capped<A> capped(const AttentionProblem& p, A logit) {
  if (p.soft_cap == 0) return {logit, 1};
  const A cap = static_cast<A>(p.soft_cap), t = std::tanh(logit / cap);
  return {cap * t, 1 - t * t};
}

/// `weights` [keys] and `values` [head_dim] are scratch.
template <typename T, typename Out>
void forward_row(const AttentionProblem& p, const AttentionForward& a, std::int64_t batch, std::int64_t head,
                 std::int64_t query, accumulate_t<T>* weights, accumulate_t<T>* values) {
  using A = accumulate_t<T>;
  const std::int64_t D = p.head_dim, row = query_rows(p)(batch, query, head), kv_head = head / (p.heads / p.kv_heads);
  const T* q = static_cast<const T*>(a.q) + row;
  Out* out = static_cast<Out*>(a.out) + row;
  A maximum = -std::numeric_limits<A>::infinity();
  for (std::int64_t key = 0; key < p.keys; ++key) {
    if (!visible(p, batch, query, key)) continue;
    const T* k = static_cast<const T*>(a.k) + key_rows(p)(batch, key, kv_head);
    weights[key] = capped<A>(p, static_cast<A>(p.scale) * dot<A>(q, k, D)).value;
    maximum = std::max(maximum, weights[key]);
  }
  A sum = 0;
  std::fill(values, values + D, A(0));
  for (std::int64_t key = 0; key < p.keys; ++key) {
    if (!visible(p, batch, query, key)) continue;
    const T* v = static_cast<const T*>(a.v) + key_rows(p)(batch, key, kv_head);
    const A weight = std::exp(weights[key] - maximum);
    sum += weight;
    for (std::int64_t d = 0; d < D; ++d) values[d] += weight * convert<A>(v[d]);
  }
  for (std::int64_t d = 0; d < D; ++d) out[d] = convert<Out>(sum > 0 ? values[d] / sum : A(0));
  static_cast<A*>(a.log_sum_exp)[(batch * p.heads + head) * p.queries + query] =
      sum > 0 ? maximum + std::log(sum) : -std::numeric_limits<A>::infinity();
}

/// Adds one query row's part to dq, dk and dv, which are in the arithmetic type and, for dk and dv, of one kv head:
/// [keys, head_dim].
template <typename T>
void backward_row(const AttentionProblem& p, const AttentionBackward& a, std::int64_t batch, std::int64_t head,
                  std::int64_t query, accumulate_t<T>* dq, accumulate_t<T>* dk, accumulate_t<T>* dv) {
  using A = accumulate_t<T>;
  const std::int64_t D = p.head_dim, row = query_rows(p)(batch, query, head), kv_head = head / (p.heads / p.kv_heads);
  const T* q = static_cast<const T*>(a.q) + row;
  const T* dout = static_cast<const T*>(a.dout) + row;
  const A log_sum_exp = static_cast<const A*>(a.log_sum_exp)[(batch * p.heads + head) * p.queries + query];
  const A scale = static_cast<A>(p.scale);
  const A delta = static_cast<const A*>(a.delta)[(batch * p.queries + query) * p.heads + head];
  for (std::int64_t key = 0; key < p.keys; ++key) {
    if (!visible(p, batch, query, key)) continue;
    const T* k = static_cast<const T*>(a.k) + key_rows(p)(batch, key, kv_head);
    const T* v = static_cast<const T*>(a.v) + key_rows(p)(batch, key, kv_head);
    const Capped<A> logit = capped<A>(p, scale * dot<A>(q, k, D));
    const A weight = std::exp(logit.value - log_sum_exp);
    const A dlogit = weight * (dot<A>(dout, v, D) - delta) * logit.slope * scale;
    for (std::int64_t d = 0; d < D; ++d) {
      dq[d] += dlogit * convert<A>(k[d]);
      dk[key * D + d] += dlogit * convert<A>(q[d]);
      dv[key * D + d] += weight * convert<A>(dout[d]);
    }
  }
}

template <typename A, typename To>
void write_row(const A* from, To* to, std::int64_t n, bool accumulate) {
  for (std::int64_t i = 0; i < n; ++i) to[i] = convert<To>(accumulate ? convert<A>(to[i]) + from[i] : from[i]);
}

}  // namespace

std::size_t attention_forward_scratch_bytes(const AttentionProblem& p, DType dtype, int threads) {
  Carver carver(nullptr);
  dispatch_floating(dtype, [&]<typename T>(T) {
    for (int thread = 0; thread < threads; ++thread) carver.take<accumulate_t<T>>(p.keys + p.head_dim);
  });
  return carver.used();
}

std::size_t attention_backward_scratch_bytes(const AttentionProblem& p, DType dtype, DType, int threads) {
  Carver carver(nullptr);
  dispatch_floating(dtype, [&]<typename T>(T) {
    for (int thread = 0; thread < threads; ++thread) carver.take<accumulate_t<T>>((2 * p.keys + 1) * p.head_dim);
  });
  return carver.used();
}

void attention_forward(const AttentionProblem& p, const AttentionForward& a, ThreadPool& pool, void* scratch) {
  check_attention(p, a);
  dispatch_two(a.dtype, a.out_dtype, [&]<typename T, typename Out>(T, Out) {
    const std::size_t stride = attention_forward_scratch_bytes(p, a.dtype, 1);
    pool.run(p.batch * p.heads, [&](std::int64_t task, int thread) {
      auto* weights = reinterpret_cast<accumulate_t<T>*>(static_cast<std::byte*>(scratch) + thread * stride);
      for (std::int64_t query = 0; query < p.queries; ++query)
        forward_row<T, Out>(p, a, task / p.heads, task % p.heads, query, weights, weights + p.keys);
    });
  });
}

void attention_backward(const AttentionProblem& p, const AttentionBackward& a, ThreadPool& pool, void* scratch) {
  check_attention(p, a);
  dispatch_floating(a.dtype, [&]<typename T>(T) {
    using A = accumulate_t<T>;
    const std::size_t stride = attention_backward_scratch_bytes(p, a.dtype, a.dq_dtype, 1);
    const std::int64_t D = p.head_dim, group = p.heads / p.kv_heads;
    auto write = [&](const A* from, void* to, DType type, std::int64_t at, bool accumulate) {
      if (type == a.dtype)
        write_row(from, static_cast<T*>(to) + at, D, accumulate);
      else
        write_row(from, static_cast<float*>(to) + at, D, accumulate);
    };
    pool.run(p.batch * p.kv_heads, [&](std::int64_t task, int thread) {
      const std::int64_t batch = task / p.kv_heads, kv_head = task % p.kv_heads;
      A* dk = reinterpret_cast<A*>(static_cast<std::byte*>(scratch) + thread * stride);
      A* dv = dk + p.keys * D;
      A* dq = dv + p.keys * D;
      std::fill(dk, dq, A(0));
      // Sums go on from what is there.
      for (std::int64_t key = 0; a.accumulate_dkv && key < p.keys; ++key) {
        const std::int64_t at = key_rows(p)(batch, key, kv_head);
        std::copy_n(static_cast<const A*>(a.dk) + at, D, dk + key * D);
        std::copy_n(static_cast<const A*>(a.dv) + at, D, dv + key * D);
      }
      for (std::int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head)
        for (std::int64_t query = 0; query < p.queries; ++query) {
          std::fill(dq, dq + D, A(0));
          backward_row<T>(p, a, batch, head, query, dq, dk, dv);
          write(dq, a.dq, a.dq_dtype, query_rows(p)(batch, query, head), a.accumulate_dq);
        }
      for (std::int64_t key = 0; key < p.keys; ++key) {
        const std::int64_t at = key_rows(p)(batch, key, kv_head);
        write(dk + key * D, a.dk, a.dkv_dtype, at, false);
        write(dv + key * D, a.dv, a.dkv_dtype, at, false);
      }
    });
  });
}

}  // namespace longhaul::cpu::reference
