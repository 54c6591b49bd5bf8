// From a transformer spec to the forward graph of one device: global shapes, no ranks. Reads only the spec; knows no
// family.
#pragma once
#include <cstdint>

#include "ir/graph.h"
#include "model/spec.h"

namespace longhaul {

/// The inputs tokens, labels, index, key_start and position ([batch, sequence], int32), every parameter by its name,
/// and the output "logits" [batch, sequence, vocabulary] before logits scale and soft cap (the loss applies them).
/// Of a spec with RoPE that depends on the length it takes what at_length (rope.h) gave; others have their shortest
/// form.
Graph forward_graph(const TransformerSpec& spec, std::int64_t batch, std::int64_t sequence, const Mesh& mesh);

/// New tokens of one sequence whose earlier keys and values are kept.
struct Continuation {
  std::int64_t count = 1;        ///< new tokens
  std::int64_t capacity = 1;     ///< rows of the caches: tokens that the sequence may have
  DType dtype = DType::float64;  ///< of the caches: that of activations
  bool logits = true;            ///< without: only the caches are filled
};

/// The same model for new tokens of one sequence: inputs tokens, index, key_start and position ([1, count], int32),
/// "cache.index" ([1, capacity], int32: 0, 1, ...), the parameters, and for each layer "cache.layers.N.k" and
/// "cache.layers.N.v" [1, capacity, kv heads, head_dim], which are outputs too: row i holds what token i left. Rows
/// that no token has filled come after every query's index, which hides them. The output "logits" [1, count,
/// vocabulary] is as forward_graph's. The spec is one that at_length gave, for the whole sequence.
Graph continuation_graph(const TransformerSpec& spec, const Continuation& tokens, const Mesh& mesh);

/// Parameters only: what the update program starts from.
Graph parameter_graph(const TransformerSpec& spec, const Mesh& mesh);

}  // namespace longhaul
