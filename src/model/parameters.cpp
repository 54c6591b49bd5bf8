#include "model/parameters.h"

#include <fmt/format.h>

namespace longhaul {
namespace {

struct Lister {
  const TransformerSpec& spec;
  std::vector<Parameter> list;

  void matrix(std::string name, std::vector<std::int64_t> shape) {
    list.push_back({std::move(name), std::move(shape), Initialisation::normal, spec.initializer_range, true});
  }
  void bias(std::string name, std::vector<std::int64_t> shape) {
    list.push_back({std::move(name), std::move(shape), Initialisation::zeros, 0, false});
  }
  /// A norm's weight: its factor starts at 1.
  void gain(std::string name, std::vector<std::int64_t> shape, bool unit_offset) {
    const Initialisation start = unit_offset ? Initialisation::zeros : Initialisation::ones;
    list.push_back({std::move(name), std::move(shape), start, 0, false});
  }
  void norm(const std::string& name, const NormSpec& norm) {
    gain(name + ".weight", {spec.hidden_size}, norm.unit_offset);
    if (norm.kind == NormKind::layer) bias(name + ".bias", {spec.hidden_size});
  }

  void layer(const std::string& prefix, const LayerSpec& l) {
    const std::int64_t e = spec.hidden_size, h = l.attention.heads, g = l.attention.kv_heads, d = l.attention.head_dim;
    const std::int64_t f = l.mlp.size;
    const bool before = l.norm_placement != NormPlacement::post, after = l.norm_placement != NormPlacement::pre;
    if (before) norm(prefix + "attention_norm", l.norm);
    const std::string a = prefix + "attention.";
    matrix(a + "q.weight", {h, d, e});
    if (l.attention.q_bias) bias(a + "q.bias", {h, d});
    matrix(a + "k.weight", {g, d, e});
    if (l.attention.k_bias) bias(a + "k.bias", {g, d});
    matrix(a + "v.weight", {g, d, e});
    if (l.attention.v_bias) bias(a + "v.bias", {g, d});
    if (l.attention.qk_norm) {
      const bool whole = l.attention.qk_norm_span == QkNormSpan::projection;
      const auto shape = [&](std::int64_t heads) {
        return whole ? std::vector<std::int64_t>{heads, d} : std::vector<std::int64_t>{d};
      };
      gain(a + "q_norm.weight", shape(h), l.attention.qk_norm_unit_offset);
      gain(a + "k_norm.weight", shape(g), l.attention.qk_norm_unit_offset);
    }
    matrix(a + "o.weight", {e, h, d});
    if (l.attention.o_bias) bias(a + "o.bias", {e});
    if (after) norm(prefix + "attention_post_norm", l.norm);
    if (before && l.branches != Branches::parallel_shared_norm) norm(prefix + "mlp_norm", l.norm);
    const std::string m = prefix + "mlp.";
    if (l.mlp.gated) {
      matrix(m + "gate.weight", {f, e});
      if (l.mlp.bias) bias(m + "gate.bias", {f});
    }
    matrix(m + "up.weight", {f, e});
    if (l.mlp.bias) bias(m + "up.bias", {f});
    matrix(m + "down.weight", {e, f});
    if (l.mlp.bias) bias(m + "down.bias", {e});
    if (after) norm(prefix + "mlp_post_norm", l.norm);
  }
};

}  // namespace

std::int64_t Parameter::elements() const {
  std::int64_t product = 1;
  for (std::int64_t size : shape) product *= size;
  return product;
}

std::vector<Parameter> parameters(const TransformerSpec& spec) {
  Lister lister{spec, {}};
  lister.matrix("embedding.tokens", {spec.vocabulary, spec.hidden_size});
  if (spec.learned_positions) lister.matrix("embedding.positions", {spec.max_positions, spec.hidden_size});
  std::int64_t index = 0;
  for (const LayerSpec* layer : spec.each_layer()) lister.layer(fmt::format("layers.{}.", index++), *layer);
  lister.norm("final_norm", spec.final_norm);
  if (!spec.tied_head) lister.matrix("head.weight", {spec.vocabulary, spec.hidden_size});
  if (spec.head_bias) lister.bias("head.bias", {spec.vocabulary});
  return lister.list;
}

std::int64_t matrix_rows(const Parameter& parameter) {
  if (!parameter.matrix || !parameter.name.starts_with("layers.")) return 0;
  // Queries, keys and values come out as heads x head dimension; everything else as one dimension.
  const bool heads = parameter.shape.size() == 3 && !parameter.name.ends_with(".attention.o.weight");
  return heads ? parameter.shape[0] * parameter.shape[1] : parameter.shape[0];
}

std::int64_t parameter_count(const TransformerSpec& spec) {
  std::int64_t count = 0;
  for (const Parameter& parameter : parameters(spec)) count += parameter.elements();
  return count;
}

}  // namespace longhaul
