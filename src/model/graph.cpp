#include "model/graph.h"

#include <tuple>
#include <vector>

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
    add_parameters();
    graph_.outputs = {{"logits", logits(layers())}};
  }

  void continue_sequence(const Continuation& tokens) {
    for (const char* field : {"tokens", "index", "key_start", "position"})
      graph_.add_input(field, {1, tokens.count}, DType::int32, Role::data);
    cache_ = &tokens;
    graph_.add_input("cache.index", {1, tokens.capacity}, DType::int32, Role::data);
    add_parameters();
    const ValueId last = layers();
    if (tokens.logits) graph_.outputs.emplace_back("logits", logits(last));
  }

 private:
  void add_parameters() {
    for (const auto& parameter : parameters(spec_))
      graph_.add_input(StateKey{Role::parameter, parameter.name}, parameter.shape, DType::float64);
  }

  // What the last layer gives.
  ValueId layers() {
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
    return x;
  }

  ValueId logits(ValueId x) {
    x = norm(spec_.final_norm, "final_norm", x);
    const ValueId head = parameter(spec_.tied_head ? "embedding.tokens" : "head.weight");
    const ValueId logits = builder_.einsum("bse,ve->bsv", x, head, "logits");
    return spec_.head_bias ? add_bias(logits, "head", "bsv", "v") : logits;
  }

  ValueId parameter(const std::string& name) const {
    const ValueId id = graph_.input(name);
    LONGHAUL_CHECK(id != no_value, "no parameter {}", name);
    return id;
  }

  ValueId norm(const NormSpec& spec, const std::string& name, ValueId x) {
    if (spec.kind == NormKind::rms) return rms_norm("rms_norm", x, name, spec.epsilon, spec.unit_offset);
    // Without a bias it is the RMS norm of what is left of x without its mean.
    if (spec.kind == NormKind::layer_without_bias)
      return rms_norm("rms_norm", builder_.one("center", {x}), name, spec.epsilon, false);
    return builder_.one("layer_norm", {x, parameter(name + ".weight"), parameter(name + ".bias")},
                        {{"epsilon", spec.epsilon}});
  }

  ValueId rms_norm(const char* op, ValueId x, const std::string& name, double epsilon, bool unit_offset) {
    Attributes attributes{{"epsilon", epsilon}};
    if (unit_offset) attributes.set("weight_offset", 1.0);
    return builder_.one(op, {x, parameter(name + ".weight")}, std::move(attributes));
  }

  // `letters` of x, whose last ones are `bias_letters`.
  ValueId add_bias(ValueId x, const std::string& name, std::string_view letters, std::string_view bias_letters) {
    return builder_.one("add_bias", {x, parameter(name + ".bias")}, {},
                        {.signature = fmt::format("{},{}->{}", letters, bias_letters, letters),
                         .result_shapes = {},
                         .result_types = {},
                         .name = ""});
  }

  // x times a weight, plus its bias when there is one. `result` are the result's letters, of which the bias has the
  // last ones.
  ValueId project(std::string_view signature, ValueId x, const std::string& name, bool bias,
                  std::string_view bias_letters) {
    ValueId y = builder_.einsum(signature, x, parameter(name + ".weight"));
    return bias ? add_bias(y, name, signature.substr(signature.find("->") + 2), bias_letters) : y;
  }

  // One table of cosines and sines serves all layers of one kind; queries that grow with their position have their own.
  ValueId rope(const RopeSpec& spec, ValueId x, double growth = 0, std::int64_t growth_length = 1) {
    if (spec.kind == RopeKind::none) return x;
    ValueId table = no_value;
    for (const auto& [known, known_growth, known_length, value] : tables_)
      if (known == spec && known_growth == growth && known_length == growth_length) table = value;
    if (table == no_value) {
      const RopeFrequencies frequencies = rope_frequencies(spec);
      const std::int32_t layer = builder_.layer();
      builder_.at(Phase::forward, -1);
      const Shape tokens = graph_[graph_.input("position")].shape;
      Attributes attributes{{"inverse_frequencies", frequencies.inverse}, {"scale", frequencies.attention_factor}};
      if (growth != 0) {
        attributes.set("growth", growth);
        attributes.set("growth_length", growth_length);
      }
      table = builder_.one("rope_table", {graph_.input("position")}, std::move(attributes),
                           {.signature = "",
                            .result_shapes = {{tokens[0], tokens[1], spec.rotary_dim}},
                            .result_types = {},
                            .name = ""});
      builder_.at(Phase::forward, layer);
      tables_.push_back({spec, growth, growth_length, table});
    }
    return builder_.one("rope", {x, table});
  }

  ValueId attention(const LayerSpec& layer, const std::string& prefix, ValueId x) {
    const AttentionSpec& spec = layer.attention;
    ValueId q = project("bse,hde->bshd", x, prefix + "attention.q", spec.q_bias, "hd");
    ValueId k = project("bse,hde->bshd", x, prefix + "attention.k", spec.k_bias, "hd");
    ValueId v = project("bse,hde->bshd", x, prefix + "attention.v", spec.v_bias, "hd");
    if (spec.qk_norm) {
      const char* op = spec.qk_norm_span == QkNormSpan::head ? "rms_norm" : "rms_norm_heads";
      q = rms_norm(op, q, prefix + "attention.q_norm", spec.qk_norm_epsilon, spec.qk_norm_unit_offset);
      k = rms_norm(op, k, prefix + "attention.k_norm", spec.qk_norm_epsilon, spec.qk_norm_unit_offset);
    }
    q = rope(layer.rope, q, spec.position_growth, spec.position_growth_length);
    k = rope(layer.rope, k);
    Attributes attributes{{"scale", spec.scale}};
    if (spec.window) attributes.set("window", spec.window);
    if (spec.soft_cap != 0) attributes.set("soft_cap", spec.soft_cap);
    const ValueId index = graph_.input("index");
    ValueId key_index = index;
    if (cache_) {
      key_index = graph_.input("cache.index");
      k = stored("cache." + prefix + "k", k);
      v = stored("cache." + prefix + "v", v);
    }
    const ValueId o = builder_.one("attention", {q, k, v, index, key_index, graph_.input("key_start")}, attributes);
    return project("bshd,ehd->bse", o, prefix + "attention.o", spec.o_bias, "e");
  }

  // The cache of that name with these keys or values in it: read, and left behind under the same name.
  ValueId stored(const std::string& name, ValueId rows) {
    const Shape shape = graph_[rows].shape;
    const ValueId before =
        graph_.add_input(name, {shape[0], cache_->capacity, shape[2], shape[3]}, cache_->dtype, Role::data);
    graph_[before].pinned = Layout::whole(4);
    const ValueId after = builder_.one("store_rows", {before, rows, graph_.input("index")});
    graph_.outputs.emplace_back(name, after);
    return after;
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

  ValueId before(const LayerSpec& layer, const std::string& name, ValueId x) {
    return layer.norm_placement == NormPlacement::post ? x : norm(layer.norm, name, x);
  }

  // x with what a branch gives, normalised first where the layer says so.
  ValueId residual(const LayerSpec& layer, ValueId x, ValueId branch, const std::string& post_norm) {
    if (layer.norm_placement != NormPlacement::pre) branch = norm(layer.norm, post_norm, branch);
    if (layer.residual_multiplier != 1)
      branch = builder_.one("scale", {branch}, {{"factor", layer.residual_multiplier}});
    return builder_.one("add", {x, branch});
  }

  ValueId block(const LayerSpec& layer, const std::string& prefix, ValueId x) {
    const ValueId first = before(layer, prefix + "attention_norm", x);
    const ValueId sum = residual(layer, x, attention(layer, prefix, first), prefix + "attention_post_norm");
    const ValueId second = layer.branches == Branches::parallel_shared_norm
                               ? first
                               : before(layer, prefix + "mlp_norm", layer.branches == Branches::parallel ? x : sum);
    return residual(layer, sum, mlp(layer.mlp, prefix, second), prefix + "mlp_post_norm");
  }

  const TransformerSpec& spec_;
  Graph& graph_;
  Builder builder_;
  std::vector<std::tuple<RopeSpec, double, std::int64_t, ValueId>> tables_;
  const Continuation* cache_ = nullptr;  // null: keys and values are those of the batch
};

}  // namespace

Graph forward_graph(const TransformerSpec& spec, std::int64_t batch, std::int64_t sequence, const Mesh& mesh) {
  Graph graph;
  graph.mesh = mesh;
  ForwardBuilder(spec, graph).run(batch, sequence);
  return graph;
}

Graph continuation_graph(const TransformerSpec& spec, const Continuation& tokens, const Mesh& mesh) {
  Graph graph;
  graph.mesh = mesh;
  ForwardBuilder(spec, graph).continue_sequence(tokens);
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
