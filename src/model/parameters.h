// The parameters of a model: names, shapes, how they start. Letters: e hidden size, h query heads, g KV heads, d head
// dimension, f intermediate size, v vocabulary, p max positions. Row-major; activations are multiplied by transposed
// weights.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "model/spec.h"

namespace longhaul {

enum class Initialisation : std::uint8_t { normal, zeros, ones };

struct Parameter {
  std::string name;
  std::vector<std::int64_t> shape;
  Initialisation initialisation = Initialisation::normal;
  double standard_deviation = 0;  ///< of Initialisation::normal; its mean is 0
  /// A matrix or table rather than a norm's weight or a bias (whose shape may have two dimensions here): what
  /// frameworks that choose by the number of dimensions would decay.
  bool matrix = true;

  std::int64_t elements() const;
  bool operator==(const Parameter&) const = default;
};

/// Every parameter in a fixed order: embedding.tokens [v,e]; embedding.positions [p,e] with learned positions; for each
/// layer i of layers.{i}: attention_norm.weight [e] (.bias of a layer norm) unless norms are post; attention.q.weight
/// [h,d,e], .k.weight and .v.weight [g,d,e], .o.weight [e,h,d] with biases q [h,d], k and v [g,d], o [e];
/// attention.q_norm.weight and .k_norm.weight [d], or [h,d] and [g,d] when they span the projection;
/// attention_post_norm when norms are post or both; mlp_norm unless post or shared; mlp.gate.weight [f,e] of a gated
/// MLP, mlp.up.weight [f,e], mlp.down.weight [e,f] with biases [f], [f], [e]; mlp_post_norm; then final_norm, unless
/// tied head.weight [v,e], and head.bias [v].
std::vector<Parameter> parameters(const TransformerSpec& spec);

/// Rows of a layer's matrix, its leading dimensions that are outputs together: what Muon makes orthogonal. 0 for what
/// is none: norms, biases, and the tables of embeddings and head.
std::int64_t matrix_rows(const Parameter& parameter);

/// The sum of their elements.
std::int64_t parameter_count(const TransformerSpec& spec);

}  // namespace longhaul
