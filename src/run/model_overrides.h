// The model of an experiment: what model.config holds, changed as model.rope, model.max_position_embeddings and
// model.vocab_size say.
#pragma once
#include <string>
#include <vector>

#include "config/experiment.h"
#include "model/huggingface.h"
#include "run/session.h"

namespace longhaul {

/// Reads model.config and applies the overrides: `spec` is what is trained and exported, `stored` what the file says
/// and what weights beside it hold. Each change is a note. Throws Error, naming key and value, for what the model
/// cannot have: no layer with RoPE, a field that a type needs and nobody gave, learned positions of another number.
LoadedModel experiment_model(const Experiment& experiment);

/// Parameters of a vocabulary of `wanted` words from a source of `stored` ones: rows of embedding.tokens, head.weight
/// and head.bias that the source has not are the mean of those that it has (a float64 sum, in their order), rows beyond
/// the vocabulary are left out. The source itself when the vocabularies have one size.
ParameterSource resized_source(ParameterSource source, const TransformerSpec& stored, const TransformerSpec& wanted);

}  // namespace longhaul
