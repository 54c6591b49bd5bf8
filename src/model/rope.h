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

/// Empty for RopeKind::none. The same for every sequence length.
RopeFrequencies rope_frequencies(const RopeSpec& rope);

/// The attention factor that yarn takes when none is given: 0.1 ln(factor) + 1, or 1 when factor <= 1; or with both
/// `mscale` and `mscale_all_dim` nonzero the ratio of 0.1 m ln(factor) + 1 for the two.
double yarn_attention_factor(double factor, double mscale = 0, double mscale_all_dim = 0);

}  // namespace longhaul
