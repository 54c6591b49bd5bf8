// Private to src/model: what a Hugging Face family's file provides, and the reader of config.json that they share.
#pragma once
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/huggingface.h"
#include "model/spec.h"

namespace longhaul {

/// What families spell or count differently about RoPE.
struct RopeKeys {
  double theta = 10000;  ///< when the file is silent
  const char* theta_key = "rope_theta";
  const char* part_key = "partial_rotary_factor";
  /// What part of a head turns when the file is silent; nothing: all of it, and the file must not say otherwise.
  std::optional<double> part = {};
  bool yarn_is_longrope = false;                            ///< Phi-3's first files
  std::optional<std::int64_t> original_max_positions = {};  ///< when the file is silent; nothing: max_positions
  std::vector<const char*> also = {};                       ///< other parameters that the family reads itself
  /// Parameters to read instead of the file's rope_scaling and rope_parameters.
  const nlohmann::json* table = nullptr;
};

/// Reads config.json keys with the family's defaults and remembers which were read. null counts as missing.
class ConfigReader {
 public:
  ConfigReader(const nlohmann::json& config, std::string origin, std::string family);

  /// At least 1, unless `minimum` says otherwise; 16.0 is taken for 16, and noted. So is every fallback that is taken
  /// because the file lacks a key or holds null (but of switches that are off and factors of 1): what is trained then
  /// has something that nobody wrote down.
  std::int64_t integer(const char* key, std::optional<std::int64_t> fallback, std::int64_t minimum = 1);
  std::optional<std::int64_t> optional_integer(const char* key);
  /// From 1 to the number of layers that a spec may have, checked before anything is repeated that often.
  std::int64_t layer_count(const char* key, std::int64_t fallback);
  double number(const char* key, double fallback);
  bool boolean(const char* key, bool fallback);
  std::string text(const char* key, const char* fallback);
  /// nullptr when missing or null.
  const nlohmann::json* raw(const char* key);
  /// The key stands in the file, be it null.
  bool holds(const char* key) const { return config_.contains(key); }

  Activation activation(const char* key, const char* fallback);
  /// RoPE in either spelling: rope_scaling and rope_theta (transformers 4) or rope_parameters (5).
  RopeSpec rope(std::int64_t head_dim, std::int64_t max_positions, const RopeKeys& keys = {});
  /// A dropout rate: ignored, and noted when it is not zero.
  void dropout(const char* key);
  /// Keys that say nothing about the computation.
  void ignore(std::initializer_list<const char*> keys);
  /// Refuses the file unless the key is missing, null or `harmless`.
  void refuse_unless(const char* key, const nlohmann::json& harmless);
  /// One line for notes().
  void note(const std::string& message);
  /// Refuses keys that nothing has read though they mean something in some family, with values that say more than no.
  void refuse_unread();
  [[noreturn]] void refuse(const std::string& message) const;

  /// What was ignored or filled in, one line each: nonzero dropout, sizes by default, keys that nothing has read.
  std::vector<std::string> notes() const;

 private:
  const nlohmann::json& config_;
  void take_default(const char* key, const std::string& value);
  std::string origin_, family_, dropouts_;
  std::vector<std::pair<std::string, std::string>> defaults_;  // key, and what is said of it
  std::set<std::string> whole_;                                // what is said of integers written as 16.0
  std::set<std::string> read_;
  std::vector<std::string> notes_;
};

class Family {
 public:
  virtual ~Family() = default;
  virtual std::string model_type() const = 0;
  /// The class that transformers loads it with.
  virtual std::string architecture() const = 0;
  /// When no family is asked for, an export takes the first of the lowest rank that can express the spec. 0: the plain
  /// ones that everything reads; 1: others of transformers; 2: those that need code of their own.
  virtual int export_rank() const { return 1; }
  virtual TransformerSpec to_spec(ConfigReader& config) const = 0;
  /// The keys that to_spec reads, for a spec that the family can express; for others anything, without throwing: the
  /// caller translates back and compares.
  virtual nlohmann::ordered_json to_config(const TransformerSpec& spec) const = 0;
  virtual std::vector<WeightMapping> weights(const TransformerSpec& spec) const = 0;
  virtual bool ignores_tensor(std::string_view tensor, const TransformerSpec& spec) const = 0;
};

/// Every family, by export_rank and model_type. Filled before main and constant afterwards.
const std::vector<std::unique_ptr<Family>>& all_families();

/// A static object of this type at the end of a family's file adds the family.
struct RegisterFamily {
  explicit RegisterFamily(std::unique_ptr<Family> family);
};

/// rope_theta and rope_scaling as transformers 4 and 5 both read them.
void write_rope(const RopeSpec& rope, nlohmann::ordered_json& config);
/// rope_scaling of a RoPE: null for a plain one.
nlohmann::ordered_json rope_scaling_of(const RopeSpec& rope);
/// hidden_act for an activation.
std::string activation_name(Activation activation);
/// A number x near `guess` for which function(x) == target, to write what reads back as the same; else `guess`.
template <typename Function>
double reads_back_as(double target, double guess, Function function) {
  double below = guess, above = guess;
  for (int i = 0; i < 8 && function(below) != target && function(above) != target; ++i) {
    below = std::nextafter(below, -HUGE_VAL);
    above = std::nextafter(above, HUGE_VAL);
  }
  return function(below) == target ? below : function(above) == target ? above : guess;
}

}  // namespace longhaul
