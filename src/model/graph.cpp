#include "model/graph.h"

#include <map>

#include "base/error.h"
#include "ir/builder.h"
#include "model/batch.h"
#include "model/parameters.h"
#include "model/rope.h"

namespace longhaul {
namespace {

class ForwardBuilder {
 public:
  ForwardBuilder(const TransformerSpec& spec, Graph& graph) : spec_(spec), graph_(graph), builder_(graph, "model") {}

  void run(std::int64_t batch, std::int64_t sequence) {
    for (const BatchField& field : batch_fields)
      graph_.add_input(std::string(field.name), {batch, sequence}, DType::int32, Role::data);
    for (const auto& parameter : parameters(spec_))
      graph_.add_input(StateKey{Role::parameter, parameter.name}, parameter.shape, DType::float64);
    ValueId x = builder_.one("embedding", {graph_.input("tokens"), parameter("embedding.tokens")});
    if (spec_.embedding_multiplier != 1) x = builder_.one("scale", {x}, {{"factor", spec_.embedding_multiplier}});
    if (spec_.learned_positions)
      x = builder_.one("add",
                       {x, builder_.one("embedding", {graph_.input("position"), parameter("embedding.positions")})});
    std::int32_t index = 0;
    for (const LayerSpec* layer : spec_.each_layer()) {
      builder_.at(Phase::forward, index);
      x = block(*layer, fmt::format("layers.{}.", index), x);
      ++index;
    }
    builder_.at(Phase::forward, -1);
    x = norm(spec_.final_norm, "final_norm", x);
    const ValueId head = parameter(spec_.tied_head ? "embedding.tokens" : "head.weight");
    graph_.outputs = {{"logits", builder_.einsum("bse,ve->bsv", x, head, "logits")}};
  }

 private:
  ValueId parameter(const std::string& name) const {
    const ValueId id = graph_.input(name);
    LONGHAUL_CHECK(id != no_value, "no parameter {}", name);
    return id;
  }

  ValueId norm(const NormSpec& spec, const std::string& name, ValueId x) {
    if (spec.kind == NormKind::rms)
      return builder_.one("rms_norm", {x, parameter(name + ".weight")}, {{"epsilon", spec.epsilon}});
    return builder_.one("layer_norm", {x, parameter(name + ".weight"), parameter(name + ".bias")},
                        {{"epsilon", spec.epsilon}});
  }

  // x times a weight, plus its bias when there is one. `result` are the result's letters, of which the bias has the
  // last ones.
  ValueId project(std::string_view signature, ValueId x, const std::string& name, bool bias,
                  std::string_view bias_letters) {
    ValueId y = builder_.einsum(signature, x, parameter(name + ".weight"));
    if (!bias) return y;
    const std::string result(signature.substr(signature.find("->") + 2));
    return builder_.one("add_bias", {y, parameter(name + ".bias")}, {},
                        {.signature = fmt::format("{},{}->{}", result, bias_letters, result),
                         .result_shapes = {},
                         .result_types = {},
                         .name = ""});
  }

  // One table of cosines and sines serves all layers of one kind.
  ValueId rope(const RopeSpec& spec, ValueId x) {
    if (spec.kind == RopeKind::none) return x;
    ValueId table = no_value;
    for (const auto& [known, value] : tables_)
      if (known == spec) table = value;
    if (table == no_value) {
      const RopeFrequencies frequencies = rope_frequencies(spec);
      const std::int32_t layer = builder_.layer();
      builder_.at(Phase::forward, -1);
      const Shape tokens = graph_[graph_.input("position")].shape;
      table = builder_.one("rope_table", {graph_.input("position")},
                           {{"inverse_frequencies", frequencies.inverse}, {"scale", frequencies.attention_factor}},
                           {.signature = "",
                            .result_shapes = {{tokens[0], tokens[1], spec.rotary_dim}},
                            .result_types = {},
                            .name = ""});
      builder_.at(Phase::forward, layer);
      tables_.push_back({spec, table});
    }
    return builder_.one("rope", {x, table});
  }

  ValueId attention(const LayerSpec& layer, const std::string& prefix, ValueId x) {
    const AttentionSpec& spec = layer.attention;
    if (spec.soft_cap != 0)
      fail("{}attention.soft_cap is {}: soft-capped attention scores are not supported; only 0 is", prefix,
           spec.soft_cap);
    ValueId q = project("bse,hde->bshd", x, prefix + "attention.q", spec.q_bias, "hd");
    ValueId k = project("bse,hde->bshd", x, prefix + "attention.k", spec.k_bias, "hd");
    const ValueId v = project("bse,hde->bshd", x, prefix + "attention.v", spec.v_bias, "hd");
    if (spec.qk_norm) {
      q = builder_.one("rms_norm", {q, parameter(prefix + "attention.q_norm.weight")},
                       {{"epsilon", spec.qk_norm_epsilon}});
      k = builder_.one("rms_norm", {k, parameter(prefix + "attention.k_norm.weight")},
                       {{"epsilon", spec.qk_norm_epsilon}});
    }
    q = rope(layer.rope, q);
    k = rope(layer.rope, k);
    Attributes attributes{{"scale", spec.scale}};
    if (spec.window) attributes.set("window", spec.window);
    const ValueId index = graph_.input("index");
    const ValueId o = builder_.one("attention", {q, k, v, index, index, graph_.input("key_start")}, attributes);
    return project("bshd,ehd->bse", o, prefix + "attention.o", spec.o_bias, "e");
  }

  ValueId mlp(const MlpSpec& spec, const std::string& prefix, ValueId x) {
    const Attributes kind{{"kind", std::string(name_of(spec.activation))}};
    const ValueId up = project("bse,fe->bsf", x, prefix + "mlp.up", spec.bias, "f");
    const ValueId hidden =
        spec.gated ? builder_.one("gated_activation",
                                  {project("bse,fe->bsf", x, prefix + "mlp.gate", spec.bias, "f"), up}, kind)
                   : builder_.one("activation", {up}, kind);
    return project("bsf,ef->bse", hidden, prefix + "mlp.down", spec.bias, "e");
  }

  ValueId residual(const LayerSpec& layer, ValueId x, ValueId branch) {
    if (layer.residual_multiplier != 1)
      branch = builder_.one("scale", {branch}, {{"factor", layer.residual_multiplier}});
    return builder_.one("add", {x, branch});
  }

  ValueId block(const LayerSpec& layer, const std::string& prefix, ValueId x) {
    x = residual(layer, x, attention(layer, prefix, norm(layer.norm, prefix + "attention_norm", x)));
    return residual(layer, x, mlp(layer.mlp, prefix, norm(layer.norm, prefix + "mlp_norm", x)));
  }

  const TransformerSpec& spec_;
  Graph& graph_;
  Builder builder_;
  std::vector<std::pair<RopeSpec, ValueId>> tables_;
};

}  // namespace

Graph forward_graph(const TransformerSpec& spec, std::int64_t batch, std::int64_t sequence, const Mesh& mesh) {
  Graph graph;
  graph.mesh = mesh;
  ForwardBuilder(spec, graph).run(batch, sequence);
  return graph;
}

Graph parameter_graph(const TransformerSpec& spec, const Mesh& mesh) {
  Graph graph;
  graph.mesh = mesh;
  for (const auto& parameter : parameters(spec))
    graph.add_input(StateKey{Role::parameter, parameter.name}, parameter.shape, DType::float64);
  return graph;
}

}  // namespace longhaul
