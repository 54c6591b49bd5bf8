// The frequencies of rotary position embeddings.
#pragma once
#include <vector>

#include "model/spec.h"

namespace longhaul {

struct RopeFrequencies {
  /// [rotary_dim / 2], radians per position: the pair (i, i + rotary_dim / 2) turns by position x inverse[i].
  std::vector<double> inverse;
  /// Multiplies every cos and sin.
  double attention_factor = 1;
};

/// Empty for RopeKind::none. Of kinds that depend on the length of sequences (dynamic, longrope): for lengths up to
/// original_max_positions; at_length gives the others.
RopeFrequencies rope_frequencies(const RopeSpec& rope);

/// The spec for sequences of `tokens` tokens: dynamic RoPE becomes a plain one with the theta for that length, longrope
/// one with the same factors for every length. Everything else stays as it is.
TransformerSpec at_length(TransformerSpec spec, std::int64_t tokens);

/// The attention factor that yarn takes when none is given: 0.1 ln(factor) + 1, or 1 when factor <= 1; or with both
/// `mscale` and `mscale_all_dim` nonzero the ratio of 0.1 m ln(factor) + 1 for the two.
double yarn_attention_factor(double factor, double mscale = 0, double mscale_all_dim = 0);

/// What longrope takes when none is given: sqrt(1 + ln(factor) / ln(original length)), or 1 when factor <= 1; `factor`
/// is the whole length over the original one.
double longrope_attention_factor(double factor, std::int64_t original_max_positions);

}  // namespace longhaul
