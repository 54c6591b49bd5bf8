// Small models and random inputs for compiler tests.
#pragma once
#include <map>
#include <random>
#include <string>
#include <vector>

#include "compile/compile.h"
#include "model/parameters.h"
#include "runtime/cpu/interpreter.h"
#include "runtime/cpu/target.h"

namespace longhaul::test {

inline constexpr std::int64_t vocabulary = 13;

/// Grouped-query attention, RoPE, RMS norm, gated MLP; two groups of unlike layers.
inline TransformerSpec llama_like(std::int64_t kv_heads = 2) {
  LayerSpec layer;
  layer.attention = {.heads = 4, .kv_heads = kv_heads, .head_dim = 4, .scale = 0.5};
  layer.rope = {.kind = RopeKind::plain, .rotary_dim = 4};
  layer.mlp = {.gated = true, .activation = Activation::silu, .size = 12};
  TransformerSpec spec;
  spec.vocabulary = vocabulary;
  spec.hidden_size = 8;
  spec.max_positions = 64;
  spec.layers = {{2, layer}};
  return spec;
}

/// Learned positions, layer norm, biases, plain MLP, tied head.
inline TransformerSpec gpt2_like() {
  LayerSpec layer;
  layer.attention = {.heads = 4,
                     .kv_heads = 4,
                     .head_dim = 2,
                     .q_bias = true,
                     .k_bias = true,
                     .v_bias = true,
                     .o_bias = true,
                     .scale = 0.7};
  layer.norm = {.kind = NormKind::layer, .epsilon = 1e-5};
  layer.mlp = {.gated = false, .activation = Activation::gelu_tanh, .size = 16, .bias = true};
  TransformerSpec spec;
  spec.vocabulary = vocabulary;
  spec.hidden_size = 8;
  spec.max_positions = 64;
  spec.learned_positions = true;
  spec.layers = {{2, layer}};
  spec.final_norm = layer.norm;
  spec.tied_head = true;
  return spec;
}

/// QK-norm, windows in some layers, multipliers, soft cap of the logits.
inline TransformerSpec qwen3_like() {
  TransformerSpec spec = llama_like(1);
  LayerSpec layer = spec.layers[0].layer;
  layer.attention.qk_norm = true;
  layer.attention.head_dim = 6;  // not hidden size / heads
  layer.rope.rotary_dim = 4;
  layer.residual_multiplier = 0.8;
  LayerSpec windowed = layer;
  windowed.attention.window = 3;
  spec.embedding_multiplier = 1.5;
  spec.layers = {{1, layer}, {1, windowed}};
  spec.logits_scale = 0.5;
  spec.logits_soft_cap = 5;
  return spec;
}

inline Mesh mesh(int dp, int ulysses) {
  return Mesh({{"dp", dp}, {"ring", 1}, {"ulysses", ulysses}});
}

inline CompileRequest request(const TransformerSpec& spec, const Mesh& mesh, int zero_stage,
                              DType dtype = DType::float64) {
  CompileRequest request;
  request.scratch = cpu_scratch_bytes();
  request.spec = spec;
  request.mesh = mesh;
  request.batch = 2;
  request.sequence = 8;
  request.kinds = {ProgramKind::evaluate,
                   ProgramKind::count,
                   ProgramKind::accumulate_only,
                   ProgramKind::accumulate_first,
                   ProgramKind::accumulate_middle,
                   ProgramKind::accumulate_last,
                   ProgramKind::update};
  CompileOptions& options = request.options;
  options.meaning.logits_scale = spec.logits_scale;
  options.meaning.logits_soft_cap = spec.logits_soft_cap;
  for (const auto& parameter : parameters(spec))
    options.meaning.parameters.push_back({parameter.name, parameter.shape, parameter.matrix});
  options.precision.dtype = dtype;
  options.precision.gradient = options.precision.gradient_reduce = master_dtype(dtype);
  options.placement.sharded = state_placement(zero_stage);
  return request;
}

/// An input for every input of the graph, the same for the same name, shape and seed: packed documents, ignored labels
/// that are spread unevenly (the last quarter of every sequence has no valid label), states of random numbers.
inline std::map<std::string, HostTensor> random_inputs(const Graph& graph, unsigned seed = 1) {
  std::map<std::string, HostTensor> inputs;
  for (const auto& input : graph.inputs) {
    const Value& value = graph[input.value];
    HostTensor tensor({value.shape, value.dtype});
    std::mt19937 random(seed + static_cast<unsigned>(std::hash<std::string>()(input.name)));
    std::normal_distribution<double> normal;
    for (std::int64_t i = 0, n = tensor.type.count(); i < n; ++i) {
      const std::int64_t length = value.shape.empty() ? 1 : value.shape.back(), s = i % length;
      const std::int64_t document = s < length * 3 / 8 ? 0 : length * 3 / 8;  // two documents a sequence
      double x = normal(random);
      if (input.name == "tokens")
        x = static_cast<double>(random() % vocabulary);
      else if (input.name == "labels")
        x = s >= length * 3 / 4 || random() % 4 == 0 ? -100 : static_cast<double>(random() % vocabulary);
      else if (input.name == "index")
        x = static_cast<double>(s);
      else if (input.name == "key_start")
        x = static_cast<double>(document);
      else if (input.name == "position")
        x = static_cast<double>(s - document);
      else if (input.name == "inverse_count")
        x = 1.0 / 9;
      else if (input.name == "step")
        x = 3;
      else if (input.name == "learning_rate")
        x = 0.01;
      else if (value.role == Role::second_moment)
        x = x * x;
      else if (holds_parameter(value.role))
        x = 0.5 * x + (input.name.find("norm.weight") != std::string::npos ? 1 : 0);
      tensor.set(i, x);
    }
    inputs[input.name] = std::move(tensor);
  }
  return inputs;
}

/// The largest |a − b| / max(1, largest |b|) over all elements; infinite when shapes differ or a is not finite.
inline double difference(const HostTensor& a, const HostTensor& b) {
  if (a.type.count() != b.type.count()) return std::numeric_limits<double>::infinity();
  double largest = 1, worst = 0;
  for (std::int64_t i = 0; i < b.type.count(); ++i) largest = std::max(largest, std::abs(b.at(i)));
  for (std::int64_t i = 0; i < b.type.count(); ++i) {
    const double d = std::abs(a.at(i) - b.at(i)) / largest;
    if (!(d <= worst)) worst = std::isfinite(d) ? std::max(worst, d) : std::numeric_limits<double>::infinity();
  }
  return worst;
}

}  // namespace longhaul::test
