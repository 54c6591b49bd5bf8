// The first rung of the ladder: attention in plain loops on the host, in any scalar; in double the oracle of every
// other kernel. q, out, dout, dq [b, s, h, d]; k, v, dk, dv [b, t, g, d]; log_sum_exp [b, h, s].
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cuda/api.h"

namespace longhaul::cuda::plain {

template <typename Scalar>
struct AttentionInputs {
  AttentionShape shape;
  std::int32_t window;
  const std::int32_t *query_index, *key_start, *key_index;  // [b, s], [b, s], [b, t]
  const Scalar *q, *k, *v;

  bool visible(std::int64_t b, std::int64_t query, std::int64_t key) const {
    const std::int32_t own = query_index[b * shape.queries + query], index = key_index[b * shape.keys + key];
    std::int32_t first = key_start[b * shape.queries + query];
    if (window) first = std::max(first, own - window + 1);
    return first <= index && index <= own;
  }
  std::int64_t query_at(std::int64_t b, std::int64_t query, std::int64_t head) const {
    return ((b * shape.queries + query) * shape.heads + head) * shape.head_dim;
  }
  std::int64_t key_at(std::int64_t b, std::int64_t key, std::int64_t head) const {
    return ((b * shape.keys + key) * shape.kv_heads + head / (shape.heads / shape.kv_heads)) * shape.head_dim;
  }
};

template <typename Scalar>
Scalar dot(const Scalar* a, const Scalar* b, std::int64_t count) {
  Scalar sum = 0;
  for (std::int64_t i = 0; i < count; i++) sum += a[i] * b[i];
  return sum;
}

template <typename Scalar>
void attention_forward(const AttentionInputs<Scalar>& in, Scalar* out, Scalar* log_sum_exp) {
  const AttentionShape& s = in.shape;
  const Scalar nothing = -std::numeric_limits<Scalar>::infinity();
  std::vector<Scalar> weight(s.keys);
  for (std::int64_t b = 0; b < s.batch; b++)
    for (std::int64_t head = 0; head < s.heads; head++)
      for (std::int64_t query = 0; query < s.queries; query++) {
        Scalar greatest = nothing, sum = 0;
        for (std::int64_t key = 0; key < s.keys; key++) {
          weight[key] = in.visible(b, query, key) ? s.scale * dot(in.q + in.query_at(b, query, head),
                                                                  in.k + in.key_at(b, key, head), s.head_dim)
                                                  : nothing;
          greatest = std::max(greatest, weight[key]);
        }
        Scalar* row = out + in.query_at(b, query, head);
        std::fill(row, row + s.head_dim, Scalar(0));
        for (std::int64_t key = 0; key < s.keys; key++) {
          weight[key] = weight[key] == nothing ? 0 : std::exp(weight[key] - greatest);
          sum += weight[key];
        }
        for (std::int64_t key = 0; key < s.keys; key++)
          if (weight[key] != 0)
            for (std::int64_t d = 0; d < s.head_dim; d++)
              row[d] += weight[key] / sum * in.v[in.key_at(b, key, head) + d];
        log_sum_exp[(b * s.heads + head) * s.queries + query] = sum > 0 ? greatest + std::log(sum) : nothing;
      }
}

/// `out` and `log_sum_exp` may be those of a softmax over more keys. Gradients are overwritten.
template <typename Scalar>
void attention_backward(const AttentionInputs<Scalar>& in, const Scalar* out, const Scalar* log_sum_exp,
                        const Scalar* dout, Scalar* dq, Scalar* dk, Scalar* dv) {
  const AttentionShape& s = in.shape;
  std::fill(dq, dq + in.query_at(s.batch, 0, 0), Scalar(0));
  std::fill(dk, dk + in.key_at(s.batch, 0, 0), Scalar(0));
  std::fill(dv, dv + in.key_at(s.batch, 0, 0), Scalar(0));
  for (std::int64_t b = 0; b < s.batch; b++)
    for (std::int64_t head = 0; head < s.heads; head++)
      for (std::int64_t query = 0; query < s.queries; query++) {
        const std::int64_t q_at = in.query_at(b, query, head);
        const Scalar lse = log_sum_exp[(b * s.heads + head) * s.queries + query];
        const Scalar delta = dot(out + q_at, dout + q_at, s.head_dim);
        for (std::int64_t key = 0; key < s.keys; key++) {
          if (!in.visible(b, query, key)) continue;
          const std::int64_t k_at = in.key_at(b, key, head);
          const Scalar p = std::exp(s.scale * dot(in.q + q_at, in.k + k_at, s.head_dim) - lse);
          const Scalar ds = s.scale * p * (dot(dout + q_at, in.v + k_at, s.head_dim) - delta);
          for (std::int64_t d = 0; d < s.head_dim; d++) {
            dv[k_at + d] += p * dout[q_at + d];
            dk[k_at + d] += ds * in.q[q_at + d];
            dq[q_at + d] += ds * in.k[k_at + d];
          }
        }
      }
}

/// Two partial softmaxes over different keys become one: [b, s, h, d] and [b, h, s].
template <typename Scalar>
void softmax_merge(std::int64_t batch, std::int64_t rows, std::int64_t heads, std::int64_t head_dim, Scalar* out,
                   Scalar* log_sum_exp, const Scalar* partial, const Scalar* partial_log_sum_exp) {
  for (std::int64_t b = 0; b < batch; b++)
    for (std::int64_t row = 0; row < rows; row++)
      for (std::int64_t head = 0; head < heads; head++) {
        const std::int64_t at = (b * heads + head) * rows + row;
        const Scalar old = log_sum_exp[at], add = partial_log_sum_exp[at], top = std::max(old, add);
        if (!std::isfinite(top)) continue;
        const Scalar total = top + std::log(std::exp(old - top) + std::exp(add - top));
        for (std::int64_t d = 0; d < head_dim; d++) {
          const std::int64_t i = ((b * rows + row) * heads + head) * head_dim + d;
          out[i] = out[i] * std::exp(old - total) + partial[i] * std::exp(add - total);
        }
        log_sum_exp[at] = total;
      }
}

}  // namespace longhaul::cuda::plain
