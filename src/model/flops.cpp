#include "model/flops.h"

#include <fmt/format.h>

#include <algorithm>

#include "model/parameters.h"

namespace longhaul {

double mean_visible_keys(std::int64_t sequence_length, std::int64_t window) {
  const double s = static_cast<double>(sequence_length), w = static_cast<double>(window);
  if (window <= 0 || window >= sequence_length) return (s + 1) / 2;
  // Token q, from 0, sees min(q + 1, w) keys.
  return (w * (w + 1) / 2 + (s - w) * w) / s;
}

double packed_attention_flops(const FlopsPerToken& flops, std::span<const std::int64_t> documents) {
  double sum = 0;
  for (const FlopsPerToken::Attention& layer : flops.layers)
    for (const std::int64_t tokens : documents)
      sum += layer.of_pair * static_cast<double>(tokens) * mean_visible_keys(tokens, layer.window);
  return sum;
}

namespace {

// Products of one token, in the order of the forward pass. `moves`: whether something trained comes before, so that a
// gradient by what is multiplied is asked for.
class Products {
 public:
  Products(const std::vector<Parameter>& all, const std::function<bool(const std::string&)>& trains)
      : all_(all), trains_(trains) {}

  bool trained(const std::string& name) const { return !trains_ || trains_(name); }
  // Any parameter whose name begins so.
  bool any(const std::string& prefix) const {
    return std::any_of(all_.begin(), all_.end(),
                       [&](const Parameter& one) { return one.name.starts_with(prefix) && trained(one.name); });
  }
  void multiply(const std::string& weight, double elements, bool moves) {
    flops += 2 * elements * (1 + (trained(weight) ? 1 : 0) + (moves ? 1 : 0));
  }
  double flops = 0;

 private:
  const std::vector<Parameter>& all_;
  const std::function<bool(const std::string&)>& trains_;
};

}  // namespace

FlopsPerToken flops_per_token(const TransformerSpec& spec, std::int64_t sequence_length,
                              const std::function<bool(const std::string&)>& trains) {
  FlopsPerToken flops;
  const std::vector<Parameter> all = parameters(spec);
  Products products(all, trains);
  const auto e = static_cast<double>(spec.hidden_size);
  bool moves = products.any("embedding.");
  std::int64_t index = 0;
  for (const LayerSpec* layer : spec.each_layer()) {
    const std::string prefix = fmt::format("layers.{}.", index++), a = prefix + "attention.", m = prefix + "mlp.";
    const AttentionSpec& attention = layer->attention;
    const auto query_size = static_cast<double>(attention.heads * attention.head_dim),
               kv_size = static_cast<double>(attention.kv_heads * attention.head_dim),
               mlp_size = static_cast<double>(layer->mlp.size);
    const bool normed = moves || products.any(prefix + "attention_norm.");
    products.multiply(a + "q.weight", e * query_size, normed);
    products.multiply(a + "k.weight", e * kv_size, normed);
    products.multiply(a + "v.weight", e * kv_size, normed);
    const bool attended =
        normed || products.any(a + "q") || products.any(a + "k") || products.any(a + "v.");  // norms of q and k too
    flops.layers.push_back({(attended ? 12 : 4) * query_size, attention.window});
    products.multiply(a + "o.weight", e * query_size, attended);
    const bool added = layer->branches == Branches::sequential
                           ? attended || products.any(a + "o.") || products.any(prefix + "attention_post_norm.")
                           : moves;
    const bool read =
        layer->branches == Branches::parallel_shared_norm ? normed : added || products.any(prefix + "mlp_norm.");
    if (layer->mlp.gated) products.multiply(m + "gate.weight", e * mlp_size, read);
    products.multiply(m + "up.weight", e * mlp_size, read);
    products.multiply(m + "down.weight", e * mlp_size, read || products.any(m + "gate.") || products.any(m + "up."));
    moves = moves || products.any(prefix);
  }
  products.multiply(spec.tied_head ? "embedding.tokens" : "head.weight", e * static_cast<double>(spec.vocabulary),
                    moves || products.any("final_norm."));
  flops.matmul = products.flops;
  for (const FlopsPerToken::Attention& layer : flops.layers) {
    flops.attention_full += layer.of_pair * static_cast<double>(sequence_length);
    flops.attention_causal += layer.of_pair * mean_visible_keys(sequence_length, layer.window);
  }
  return flops;
}

}  // namespace longhaul
