// The model's own floating point operations (a multiply-add counts as two) for one token of training: forward once,
// backward twice; nothing that is recomputed.
#pragma once
#include <cstdint>
#include <span>

#include "model/spec.h"

namespace longhaul {

struct FlopsPerToken {
  /// 6 x the parameters that multiply activations: attention and MLP projections and the head (also when tied).
  double matmul = 0;
  /// 12 x heads x head_dim x S summed over layers: scores and weighted values as if every token saw all S keys,
  /// whatever the mask. The convention of torchtitan and most published MFU figures.
  double attention_full = 0;
  /// 12 x heads x head_dim x the mean number of visible keys, (S + 1) / 2 or less with a window: what causal attention
  /// computes. MFU uses this one.
  double attention_causal = 0;

  double causal() const { return matmul + attention_causal; }
  double full() const { return matmul + attention_full; }
};

/// For sequences of `sequence_length` tokens (at least 1) without packing.
FlopsPerToken flops_per_token(const TransformerSpec& spec, std::int64_t sequence_length);

/// attention_causal of one sequence whose documents, of so many tokens each, see nothing of each other: summed over its
/// tokens.
double packed_attention_flops(const TransformerSpec& spec, std::span<const std::int64_t> documents);

/// The mean over the tokens of a sequence of the keys that each sees, itself included; window 0: no window.
double mean_visible_keys(std::int64_t sequence_length, std::int64_t window);

}  // namespace longhaul
