#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace longhaul {
namespace {

constexpr double two_pi = 2 * std::numbers::pi;

/// Long waves are stretched by the factor, short ones kept, those between blended.
double llama3_frequency(const RopeSpec& rope, double frequency) {
  const double wavelength = two_pi / frequency;
  const double original = static_cast<double>(rope.original_max_positions);
  const double longest = original / rope.low_frequency_factor;
  const double shortest = original / rope.high_frequency_factor;
  if (wavelength > longest) return frequency / rope.factor;
  if (wavelength < shortest) return frequency;
  const double keep =
      (original / wavelength - rope.low_frequency_factor) / (rope.high_frequency_factor - rope.low_frequency_factor);
  return (1 - keep) * frequency / rope.factor + keep * frequency;
}

/// Dimensions that turn more than beta_fast times within the original length are kept, those that turn less than
/// beta_slow times are stretched, with a linear ramp between.
std::vector<double> yarn_frequencies(const RopeSpec& rope, const std::vector<double>& plain) {
  const double dimension = static_cast<double>(rope.rotary_dim);
  const auto dimension_of_turns = [&](double turns) {
    return dimension * std::log(static_cast<double>(rope.original_max_positions) / (turns * two_pi)) /
           (2 * std::log(rope.theta));
  };
  double low = dimension_of_turns(rope.beta_fast), high = dimension_of_turns(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dimension - 1);
  if (low == high) high += 0.001;  // a step, not a division by zero
  std::vector<double> inverse(plain.size());
  for (std::size_t i = 0; i < plain.size(); ++i) {
    const double stretched = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    inverse[i] = plain[i] / rope.factor * stretched + plain[i] * (1 - stretched);
  }
  return inverse;
}

}  // namespace

RopeFrequencies rope_frequencies(const RopeSpec& rope) {
  RopeFrequencies result;
  if (rope.kind == RopeKind::none) return result;
  result.inverse.resize(static_cast<std::size_t>(rope.rotary_dim / 2));
  for (std::size_t i = 0; i < result.inverse.size(); ++i)
    result.inverse[i] = 1.0 / std::pow(rope.theta, 2.0 * static_cast<double>(i) / static_cast<double>(rope.rotary_dim));
  if (rope.kind == RopeKind::linear)
    for (double& frequency : result.inverse) frequency /= rope.factor;
  if (rope.kind == RopeKind::llama3)
    for (double& frequency : result.inverse) frequency = llama3_frequency(rope, frequency);
  if (rope.kind == RopeKind::yarn) {
    result.inverse = yarn_frequencies(rope, result.inverse);
    result.attention_factor = rope.attention_factor;
  }
  if (rope.kind == RopeKind::longrope) {
    for (std::size_t i = 0; i < result.inverse.size(); ++i) result.inverse[i] /= rope.short_factors[i];
    result.attention_factor = rope.attention_factor;
  }
  return result;
}

TransformerSpec at_length(TransformerSpec spec, std::int64_t tokens) {
  for (LayerGroup& group : spec.layers) {
    RopeSpec& rope = group.layer.rope;
    const bool beyond = tokens > rope.original_max_positions;
    if (rope.kind == RopeKind::dynamic) {
      const double r = static_cast<double>(rope.rotary_dim);
      RopeSpec plain;
      plain.kind = RopeKind::plain;
      plain.theta = rope.theta;
      plain.rotary_dim = rope.rotary_dim;
      if (beyond)
        plain.theta *=
            std::pow(rope.factor * static_cast<double>(tokens) / static_cast<double>(rope.original_max_positions) -
                         (rope.factor - 1),
                     r / (r - 2));
      rope = plain;
    } else if (rope.kind == RopeKind::longrope) {
      if (beyond) rope.short_factors = rope.long_factors;
      rope.long_factors = rope.short_factors;
    }
  }
  return spec;
}

double longrope_attention_factor(double factor, std::int64_t original_max_positions) {
  if (factor <= 1) return 1;
  return std::sqrt(1 + std::log(factor) / std::log(static_cast<double>(original_max_positions)));
}

double yarn_attention_factor(double factor, double mscale, double mscale_all_dim) {
  const auto growth = [&](double m) { return factor <= 1 ? 1.0 : 0.1 * m * std::log(factor) + 1.0; };
  if (mscale != 0 && mscale_all_dim != 0) return growth(mscale) / growth(mscale_all_dim);
  return growth(1);
}

}  // namespace longhaul
