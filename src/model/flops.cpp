#include "model/flops.h"

namespace longhaul {

double mean_visible_keys(std::int64_t sequence_length, std::int64_t window) {
  const double s = static_cast<double>(sequence_length), w = static_cast<double>(window);
  if (window <= 0 || window >= sequence_length) return (s + 1) / 2;
  // Token q, from 0, sees min(q + 1, w) keys.
  return (w * (w + 1) / 2 + (s - w) * w) / s;
}

double packed_attention_flops(const TransformerSpec& spec, std::span<const std::int64_t> documents) {
  double flops = 0;
  for (const LayerGroup& group : spec.layers) {
    const AttentionSpec& attention = group.layer.attention;
    double pairs = 0;
    for (const std::int64_t tokens : documents)
      pairs += static_cast<double>(tokens) * mean_visible_keys(tokens, attention.window);
    flops += 12 * static_cast<double>(group.repeat * attention.heads * attention.head_dim) * pairs;
  }
  return flops;
}

FlopsPerToken flops_per_token(const TransformerSpec& spec, std::int64_t sequence_length) {
  FlopsPerToken flops;
  const double e = static_cast<double>(spec.hidden_size);
  for (const LayerGroup& group : spec.layers) {
    const double repeat = static_cast<double>(group.repeat);
    const AttentionSpec& attention = group.layer.attention;
    const double query_size = static_cast<double>(attention.heads * attention.head_dim);
    const double kv_size = static_cast<double>(attention.kv_heads * attention.head_dim);
    const double mlp_matrices = group.layer.mlp.gated ? 3 : 2;
    const double weights =
        e * (2 * query_size + 2 * kv_size) + mlp_matrices * e * static_cast<double>(group.layer.mlp.size);
    flops.matmul += 6 * repeat * weights;
    flops.attention_full += 12 * repeat * query_size * static_cast<double>(sequence_length);
    flops.attention_causal += 12 * repeat * query_size * mean_visible_keys(sequence_length, attention.window);
  }
  flops.matmul += 6 * e * static_cast<double>(spec.vocabulary);
  return flops;
}

}  // namespace longhaul
