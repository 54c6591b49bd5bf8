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

/// Parameters only: what the update program starts from.
Graph parameter_graph(const TransformerSpec& spec, const Mesh& mesh);

}  // namespace longhaul
