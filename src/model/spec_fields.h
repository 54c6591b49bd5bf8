// Private to src/model: every field of the spec's JSON, named once. A visitor reads, writes, describes or documents.
//
// A visitor has: integer, number, boolean, choice (a scalar field), object (a nested one) and list. Defaults are given
// as std::optional: none means that the field must be given; a field with `computed` may be missing and is then filled
// in by finish_defaults.
#pragma once
#include <limits>
#include <optional>
#include <string_view>
#include <vector>

#include "model/spec.h"

namespace longhaul::spec_fields {

struct Range {
  double minimum = -std::numeric_limits<double>::infinity();
  double maximum = std::numeric_limits<double>::infinity();
  bool above_minimum = false;  ///< the minimum itself is not allowed
};

/// The stand-ins of fields whose default depends on other fields, between reading and finish_defaults.
constexpr std::int64_t computed_integer = -1;
constexpr double computed_number = -1;

inline constexpr std::string_view norm_names[] = {"rms", "layer", "layer_without_bias"};
inline constexpr std::string_view placement_names[] = {"pre", "post", "both"};
inline constexpr std::string_view branches_names[] = {"sequential", "parallel", "parallel_shared_norm"};
inline constexpr std::string_view span_names[] = {"head", "projection"};
inline constexpr std::string_view rope_names[] = {"none", "default", "linear", "llama3", "yarn", "dynamic", "longrope"};

constexpr Range size_up_to(double maximum) {
  return {1, maximum, false};
}
constexpr double largest_index = 2147483647;
// With these limits the number of parameters fits 63 bits.
constexpr std::int64_t most_layers = 4096;
constexpr Range positive = {0, std::numeric_limits<double>::infinity(), true};
constexpr Range not_negative = {0, std::numeric_limits<double>::infinity(), false};

template <typename Visitor>
void describe(Visitor& v, AttentionSpec& s) {
  v.integer("heads", s.heads, {}, size_up_to(16384), "Query heads.");
  v.integer("kv_heads", s.kv_heads, {}, size_up_to(16384), "Key and value heads; divides heads.");
  v.integer("head_dim", s.head_dim, {}, size_up_to(4096), "Size of a head; need not be hidden_size / heads.");
  v.boolean("q_bias", s.q_bias, false, "The query projection has a bias.");
  v.boolean("k_bias", s.k_bias, false, "The key projection has a bias.");
  v.boolean("v_bias", s.v_bias, false, "The value projection has a bias.");
  v.boolean("o_bias", s.o_bias, false, "The output projection has a bias.");
  v.boolean("qk_norm", s.qk_norm, false,
            "Every query and key head passes an RMS norm of its own, before the position encoding.");
  v.number("qk_norm_epsilon", s.qk_norm_epsilon, 1e-6, positive, "Epsilon of that norm.");
  v.choice("qk_norm_span", s.qk_norm_span, span_names, std::optional(QkNormSpan::head),
           "What one such norm spans: each head, or all heads of a token together.");
  v.boolean("qk_norm_unit_offset", s.qk_norm_unit_offset, false, "Its factor is 1 + weight.");
  v.integer("window", s.window, 0, {0, largest_index, false},
            "Keys that a token sees, itself included; 0: all up to itself.");
  v.number("scale", s.scale, computed_number, positive, "Multiplies the scores; default 1 / sqrt(head_dim).");
  v.number("soft_cap", s.soft_cap, 0, not_negative, "Scores s become c tanh(s / c); 0: they do not.");
  v.number("position_growth", s.position_growth, 0, not_negative,
           "Queries at position p are multiplied by 1 + position_growth x ln(1 + floor(p / position_growth_length)); "
           "needs RoPE over whole heads.");
  v.integer("position_growth_length", s.position_growth_length, 1, size_up_to(largest_index), "See position_growth.");
}

template <typename Visitor>
void describe(Visitor& v, RopeSpec& s) {
  v.choice("type", s.kind, rope_names, {},
           "default: angles position x theta^(-2i / rotary_dim); linear: these divided by factor; llama3, yarn: long "
           "waves divided by factor, short ones kept; dynamic: a larger theta for sequences beyond "
           "original_max_positions; longrope: frequency i divided by short_factors[i], for sequences beyond "
           "original_max_positions by long_factors[i].");
  const bool llama3 = s.kind == RopeKind::llama3, yarn = s.kind == RopeKind::yarn,
             dynamic = s.kind == RopeKind::dynamic, longrope = s.kind == RopeKind::longrope;
  v.number("theta", s.theta, 10000, {1, std::numeric_limits<double>::infinity(), true}, "Base of the wavelengths.");
  v.integer("rotary_dim", s.rotary_dim, computed_integer, {2, 4096, false},
            "Even; the first dimensions of each head, which turn in pairs (i, i + rotary_dim / 2); default head_dim.");
  if (llama3 || yarn || dynamic || s.kind == RopeKind::linear || v.shows_all())
    v.number("factor", s.factor, {}, positive, "linear, llama3, yarn, dynamic: how far positions are stretched.");
  if (llama3 || yarn || dynamic || longrope || v.shows_all())
    v.integer("original_max_positions", s.original_max_positions, {}, size_up_to(largest_index),
              "llama3, yarn, dynamic, longrope: the length before stretching.");
  if (llama3 || v.shows_all()) {
    v.number("low_frequency_factor", s.low_frequency_factor, 1, positive,
             "llama3: waves longer than original_max_positions / this are divided by factor.");
    v.number("high_frequency_factor", s.high_frequency_factor, 4, positive,
             "llama3: waves shorter than original_max_positions / this are kept; larger than low_frequency_factor.");
  }
  if (yarn || v.shows_all()) {
    v.number("beta_fast", s.beta_fast, 32, positive,
             "yarn: dimensions that turn more often than this within original_max_positions are kept.");
    v.number("beta_slow", s.beta_slow, 1, positive, "yarn: those that turn less often are divided by factor.");
    v.boolean("truncate", s.truncate, true, "yarn: the bounds between kept and divided are whole dimensions.");
  }
  if (yarn || longrope || v.shows_all())
    v.number("attention_factor", s.attention_factor, computed_number, positive,
             "yarn, longrope: multiplies cos and sin; default of yarn 0.1 ln(factor) + 1, of longrope 1.");
  if (longrope || v.shows_all()) {
    v.numbers("short_factors", s.short_factors, positive,
              "longrope: rotary_dim / 2 divisors of the frequencies, for sequences up to original_max_positions.");
    v.numbers("long_factors", s.long_factors, positive, "longrope: those for longer sequences.");
  }
}

template <typename Visitor>
void describe(Visitor& v, NormSpec& s) {
  v.choice(
      "type", s.kind, norm_names, {},
      "rms: x / sqrt(mean(x^2) + epsilon) x weight; layer: (x - mean) / sqrt(variance + epsilon) x weight + bias.");
  v.number("epsilon", s.epsilon, {}, positive, "Added under the root.");
  v.boolean("unit_offset", s.unit_offset, false, "rms: the factor is 1 + weight, and weights start at 0.");
}

template <typename Visitor>
void describe(Visitor& v, MlpSpec& s) {
  v.boolean("gated", s.gated, {}, "true: down(activation(gate(x)) x up(x)); false: down(activation(up(x))).");
  v.choice("activation", s.activation, activation_names, {},
           "gelu: exact, by erf; gelu_tanh: its approximation by tanh.");
  v.integer("size", s.size, {}, size_up_to(1 << 24), "Intermediate size.");
  v.boolean("bias", s.bias, false, "gate, up and down have biases.");
}

template <typename Visitor>
void describe(Visitor& v, LayerGroup& s) {
  v.integer("repeat", s.repeat, 1, size_up_to(most_layers), "Equal layers in this group.");
  v.object("attention", s.layer.attention, "Self-attention.");
  v.optional_object("rope", s.layer.rope, "Rotary position embedding of queries and keys; null: none.");
  v.object("norm", s.layer.norm, "The norms of attention and of the MLP.");
  v.choice("norm_placement", s.layer.norm_placement, placement_names, std::optional(NormPlacement::pre),
           "pre: each half adds f(norm(x)) to x; post: norm(f(x)); both: norm(f(norm(x))).");
  v.choice("branches", s.layer.branches, branches_names, std::optional(Branches::sequential),
           "sequential: the MLP reads what attention has added to; parallel: attention and MLP read the same x, each "
           "through a norm of its own; parallel_shared_norm: through one norm.");
  v.object("mlp", s.layer.mlp, "The MLP.");
  v.number("residual_multiplier", s.layer.residual_multiplier, 1, {},
           "What attention and the MLP add to the residual stream is multiplied by this.");
}

template <typename Visitor>
void describe(Visitor& v, TransformerSpec& s) {
  v.constant("model_type", "longhaul", "Marks our own spec; other values are Hugging Face families.");
  v.integer("vocabulary", s.vocabulary, {}, size_up_to(largest_index), "Token ids are 0 to vocabulary - 1.");
  v.integer("hidden_size", s.hidden_size, {}, size_up_to(1 << 20), "Size of the residual stream.");
  v.integer("max_positions", s.max_positions, {}, size_up_to(largest_index),
            "Rows of the learned position table, or the length that RoPE is meant for.");
  v.boolean("learned_positions", s.learned_positions, false,
            "A learned table of max_positions rows is added to the token embeddings.");
  v.number("embedding_multiplier", s.embedding_multiplier, 1, {}, "Multiplies the token embeddings.");
  v.list("layers", s.layers, "Groups of equal layers, in order; at least one.");
  v.object("final_norm", s.final_norm, "The norm before the head.");
  v.boolean("tied_head", s.tied_head, false, "The head's weight is the token embedding.");
  v.boolean("head_bias", s.head_bias, false, "The logits have a bias, before their scale.");
  v.number("logits_scale", s.logits_scale, 1, {}, "Multiplies the logits.");
  v.number("logits_soft_cap", s.logits_soft_cap, 0, not_negative,
           "Scaled logits z become c tanh(z / c); 0: they do not.");
  v.number("initializer_range", s.initializer_range, 0.02, not_negative,
           "Standard deviation of randomly initialised weights.");
}

}  // namespace longhaul::spec_fields
