// The model's own floating point operations (a multiply-add counts as two) for one token of training: forward once,
// backward for every product of which something needs the gradient; nothing that is recomputed.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "model/spec.h"

namespace longhaul {

struct FlopsPerToken {
  /// 2 x the parameters that multiply activations (attention and MLP projections and the head, also when tied), 2 x
  /// those of them that are trained, and 2 x those whose inputs come from something that is: 6 x all when all are.
  double matmul = 0;
  /// 12 x heads x head_dim x S summed over layers: scores and weighted values as if every token saw all S keys,
  /// whatever the mask. The convention of torchtitan and most published MFU figures. 4 instead of 12 in layers whose
  /// backward pass nothing asks for.
  double attention_full = 0;
  /// The same with the mean number of visible keys for S, (S + 1) / 2 or less with a window: what causal attention
  /// computes. MFU uses this one.
  double attention_causal = 0;

  struct Attention {
    double of_pair = 0;  ///< FLOPs of a query and a key
    std::int64_t window = 0;
  };
  std::vector<Attention> layers;

  double causal() const { return matmul + attention_causal; }
  double full() const { return matmul + attention_full; }
};

/// For sequences of `sequence_length` tokens (at least 1) without packing. `trains` says which parameters are trained,
/// by name; null: all.
FlopsPerToken flops_per_token(const TransformerSpec& spec, std::int64_t sequence_length,
                              const std::function<bool(const std::string&)>& trains = nullptr);

/// attention_causal of one sequence whose documents, of so many tokens each, see nothing of each other: summed over its
/// tokens.
double packed_attention_flops(const FlopsPerToken& flops, std::span<const std::int64_t> documents);

/// The mean over the tokens of a sequence of the keys that each sees, itself included; window 0: no window.
double mean_visible_keys(std::int64_t sequence_length, std::int64_t window);

}  // namespace longhaul
