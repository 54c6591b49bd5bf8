// The transformer spec: what a model is, without the name of any family. Read from our own JSON ("model_type":
// "longhaul", docs/spec.md) or translated from a Hugging Face config.json (huggingface.h).
#pragma once
#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace longhaul {

enum class RopeKind : std::uint8_t { none, plain, linear, llama3, yarn, dynamic, longrope };
/// layer_without_bias: a layer norm that only multiplies.
enum class NormKind : std::uint8_t { rms, layer, layer_without_bias };
/// Where a branch is normalised: before it, after it, or both.
enum class NormPlacement : std::uint8_t { pre, post, both };
/// sequential: the MLP reads what attention has added to; parallel: both read the same input, each through its own norm
/// or through one that they share.
enum class Branches : std::uint8_t { sequential, parallel, parallel_shared_norm };
/// What one QK-norm spans: a head, or the whole projection of queries or keys.
enum class QkNormSpan : std::uint8_t { head, projection };
enum class Activation : std::uint8_t { silu, gelu, gelu_tanh, relu };
/// In their order: how the spec and the ops call them.
inline constexpr std::string_view activation_names[] = {"silu", "gelu", "gelu_tanh", "relu"};
constexpr std::string_view name_of(Activation activation) {
  return activation_names[static_cast<std::size_t>(activation)];
}

struct AttentionSpec {
  std::int64_t heads = 0;     ///< query heads
  std::int64_t kv_heads = 0;  ///< divides heads
  std::int64_t head_dim = 0;  ///< need not be hidden size / heads
  bool q_bias = false, k_bias = false, v_bias = false, o_bias = false;
  bool qk_norm = false;  ///< RMS norm of every query and key head, before RoPE
  double qk_norm_epsilon = 1e-6;
  QkNormSpan qk_norm_span = QkNormSpan::head;
  bool qk_norm_unit_offset = false;         ///< as NormSpec::unit_offset
  std::int64_t window = 0;                  ///< keys that a token sees, itself included; 0: all before it
  double scale = 0;                         ///< of the scores; read as 1/sqrt(head_dim) when the file is silent
  double soft_cap = 0;                      ///< scores become c tanh(score / c); 0: they do not
  double position_growth = 0;               ///< queries are multiplied by 1 + this ln(1 + floor(position / length))
  std::int64_t position_growth_length = 1;  ///< that length
  bool operator==(const AttentionSpec&) const = default;
};

/// Rotary position embedding in the half-split layout: dimension i pairs with i + rotary_dim / 2. Members that a kind
/// does not use keep their defaults.
struct RopeSpec {
  RopeKind kind = RopeKind::none;
  double theta = 10000;
  std::int64_t rotary_dim = 0;  ///< the first dimensions of each head, even; read as head_dim when the file is silent
  double factor = 1;            ///< linear, llama3, yarn, dynamic: how far positions are stretched
  std::int64_t original_max_positions = 0;  ///< llama3, yarn, dynamic, longrope: the length before stretching
  double low_frequency_factor = 1, high_frequency_factor = 4;  ///< llama3
  double beta_fast = 32, beta_slow = 1;                        ///< yarn
  bool truncate = true;                                        ///< yarn: whole dimensions bound the ramp
  double attention_factor = 1;  ///< yarn, longrope: multiplies cos and sin; yarn reads 0.1 ln(factor) + 1 when silent
  /// longrope: [rotary_dim / 2] divisors of the frequencies, for sequences up to the original length and beyond it.
  std::vector<double> short_factors = {}, long_factors = {};
  bool operator==(const RopeSpec&) const = default;
};

struct NormSpec {
  NormKind kind = NormKind::rms;
  double epsilon = 1e-6;
  bool unit_offset = false;  ///< rms: the factor is 1 + weight
  bool operator==(const NormSpec&) const = default;
};

struct MlpSpec {
  bool gated = true;  ///< down(activation(gate(x)) * up(x)); otherwise down(activation(up(x)))
  Activation activation = Activation::silu;
  std::int64_t size = 0;  ///< intermediate size
  bool bias = false;      ///< of gate, up and down
  bool operator==(const MlpSpec&) const = default;
};

/// x += m attention(norm(x)); x += m mlp(norm(x)), m the residual multiplier; NormPlacement and Branches say otherwise.
struct LayerSpec {
  AttentionSpec attention;
  RopeSpec rope;
  NormSpec norm;  ///< of all its norms
  NormPlacement norm_placement = NormPlacement::pre;
  Branches branches = Branches::sequential;
  MlpSpec mlp;
  double residual_multiplier = 1;
  bool operator==(const LayerSpec&) const = default;
};

/// `repeat` equal layers, each with parameters of its own.
struct LayerGroup {
  std::int64_t repeat = 1;
  LayerSpec layer;
  bool operator==(const LayerGroup&) const = default;
};

struct TransformerSpec {
  std::int64_t vocabulary = 0;
  std::int64_t hidden_size = 0;
  std::int64_t max_positions = 0;   ///< the size of the learned table, or the length that RoPE was trained for
  bool learned_positions = false;   ///< a table of max_positions rows is added to the token embeddings
  double embedding_multiplier = 1;  ///< of the token embeddings
  std::vector<LayerGroup> layers;   ///< in order
  NormSpec final_norm;
  bool tied_head = false;  ///< the head's weight is the token embedding
  bool head_bias = false;  ///< logits have a bias, before their scale
  double logits_scale = 1;
  double logits_soft_cap = 0;       ///< logits become c tanh(logit / c), after the scale; 0: they do not
  double initializer_range = 0.02;  ///< standard deviation of randomly initialised weights
  bool operator==(const TransformerSpec&) const = default;

  std::int64_t layer_count() const;
  /// Layer i of layer_count(), counted through the groups.
  const LayerSpec& layer(std::int64_t index) const;
  /// Every layer in order, as layer_count() references into the groups.
  std::vector<const LayerSpec*> each_layer() const;
};

/// Merges neighbouring groups of equal layers.
void merge_equal_groups(TransformerSpec& spec);

/// Throws Error when the spec describes no model: sizes below 1, heads that kv_heads does not divide, an odd rotary
/// dimension and so on. `origin` begins the message.
void check_spec(const TransformerSpec& spec, const std::string& origin);

/// Our own JSON. Strict: unknown and missing fields and wrong types are refused with what is supported.
TransformerSpec spec_from_json(const nlohmann::json& json, const std::string& origin);
/// Every field, also those at their defaults; spec_from_json of it gives the same spec.
nlohmann::ordered_json spec_to_json(const TransformerSpec& spec);
/// spec_to_json as indented text with a newline at the end.
std::string spec_text(const TransformerSpec& spec);

/// The JSON Schema (draft 7) of our own spec files, as configs/spec.schema.json holds it.
std::string spec_schema();
/// The tables of docs/spec.md: every field with its type, default and meaning, in Markdown.
std::string spec_reference();

}  // namespace longhaul
