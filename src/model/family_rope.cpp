// RoPE in config.json: what ConfigReader and exports know of it, and the parameters of an experiment's model.rope.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/nearest_name.h"
#include "model/family.h"
#include "model/rope.h"

namespace longhaul {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

/// What some type of RoPE reads.
constexpr std::string_view meaningful[] = {"rope_type",
                                           "type",
                                           "rope_theta",
                                           "partial_rotary_factor",
                                           "original_max_position_embeddings",
                                           "factor",
                                           "beta_fast",
                                           "beta_slow",
                                           "mscale",
                                           "mscale_all_dim",
                                           "truncate",
                                           "short_factor",
                                           "long_factor",
                                           "low_freq_factor",
                                           "high_freq_factor",
                                           "attention_factor",
                                           "max_position_embeddings"};
/// What other programs read, with other results.
constexpr std::string_view elsewhere[] = {"mrope_section", "mrope_interleaved", "alpha", "beta", "rope_percent"};
/// What published files hold and transformers reads with no type, though it looks like what it reads.
constexpr std::string_view foreign[] = {"finetuned", "attn_factor", "extrapolation_factor"};

/// One object of RoPE parameters, read key by key.
class RopeTable {
 public:
  RopeTable(const ConfigReader& config, std::string name, const json& table)
      : config_(config), name_(std::move(name)), table_(table) {
    if (!table.is_object()) config.refuse(fmt::format("{} must be an object; it is {}", name_, table.dump()));
  }

  const json* find(const char* key) {
    if (std::find(known_.begin(), known_.end(), key) == known_.end()) known_.emplace_back(key);
    const auto found = table_.find(key);
    return found == table_.end() || found->is_null() ? nullptr : &*found;
  }
  double number(const char* key, std::optional<double> fallback) {
    const json* value = find(key);
    if (value && !value->is_number())
      config_.refuse(fmt::format("{}.{} must be a number; it is {}", name_, key, value->dump()));
    if (!value && !fallback) config_.refuse(fmt::format("{}.{} is missing", name_, key));
    return value ? value->get<double>() : *fallback;
  }
  /// Above 0.
  double positive(const char* key, std::optional<double> fallback) {
    const double value = number(key, fallback);
    if (!(value > 0)) config_.refuse(fmt::format("{}.{} is {}; it must be above 0", name_, key, value));
    return value;
  }
  /// `larger` must be above `smaller`, or where `equal` no less.
  void in_order(const char* smaller, double low, const char* larger, double high, bool equal) {
    if (!(equal ? high >= low : high > low))
      config_.refuse(fmt::format("{0}.{1} is {2}; it must be {3} {0}.{4}, which is {5}", name_, larger, high,
                                 equal ? "at least" : "larger than", smaller, low));
  }
  std::vector<double> numbers(const char* key, std::int64_t count) {
    const json* value = find(key);
    if (!value) config_.refuse(fmt::format("{}.{} is missing", name_, key));
    const bool good = value->is_array() && static_cast<std::int64_t>(value->size()) == count &&
                      std::all_of(value->begin(), value->end(),
                                  [](const json& one) { return one.is_number() && one.get<double>() > 0; });
    if (!good)
      config_.refuse(
          fmt::format("{}.{} must be a list of {} numbers above 0, half of what turns of a head", name_, key, count));
    return value->get<std::vector<double>>();
  }
  bool boolean(const char* key, bool fallback) {
    const json* value = find(key);
    if (value && !value->is_boolean()) config_.refuse(fmt::format("{}.{} must be true or false", name_, key));
    return value ? value->get<bool>() : fallback;
  }

  /// Refuses what means something elsewhere, and what looks like a key that was mistyped; the others are named, one
  /// line each.
  std::vector<std::string> finish(const std::string& type, const RopeSpec& rope) {
    std::vector<std::string> notes;
    for (const auto& item : table_.items()) {
      const std::string& key = item.key();
      const json& value = item.value();
      if (std::find(known_.begin(), known_.end(), key) != known_.end()) continue;
      const auto is_in = [&](const auto& list) {
        return std::find(std::begin(list), std::end(list), key) != std::end(list);
      };
      const bool known = is_in(meaningful) || is_in(foreign);
      const std::string near =
          known ? "" : nearest_name(key, std::vector<std::string>(std::begin(meaningful), std::end(meaningful)));
      if (is_in(elsewhere) || !near.empty())
        config_.refuse(fmt::format(
            "{}.{} is not known with RoPE type {}{}; remove it if it changes nothing. Read are {}", name_, key, type,
            near.empty() ? " and may change what is computed" : fmt::format(" (did you mean {}?)", near),
            join_names(known_)));
      notes.push_back(fmt::format("{}.{} {} is not read with RoPE type {}, as in transformers", name_, key,
                                  value.dump().substr(0, 60), type));
      if (key == "attn_factor")
        notes.back() += fmt::format(": cos and sin are multiplied by {:.6g}; write attention_factor for another factor",
                                    rope.attention_factor);
    }
    return notes;
  }

  const std::string& name() const { return name_; }

 private:
  const ConfigReader& config_;
  std::string name_;
  const json& table_;
  std::vector<std::string> known_;
};

void read_yarn(RopeTable& table, RopeSpec& rope, std::int64_t max_positions) {
  rope.kind = RopeKind::yarn;
  // Without a factor: the ratio of the lengths, as transformers 5 does.
  rope.factor =
      table.positive("factor", static_cast<double>(max_positions) /
                                   static_cast<double>(std::max<std::int64_t>(1, rope.original_max_positions)));
  // Zero counts as not given.
  if (table.number("beta_fast", 0) != 0) rope.beta_fast = table.positive("beta_fast", {});
  if (table.number("beta_slow", 0) != 0) rope.beta_slow = table.positive("beta_slow", {});
  table.in_order("beta_slow", rope.beta_slow, "beta_fast", rope.beta_fast, true);
  rope.truncate = table.boolean("truncate", true);
  const double computed =
      yarn_attention_factor(rope.factor, table.number("mscale", 0), table.number("mscale_all_dim", 0));
  rope.attention_factor = table.positive("attention_factor", computed);
}

void read_longrope(RopeTable& table, RopeSpec& rope, std::int64_t max_positions) {
  rope.kind = RopeKind::longrope;
  rope.short_factors = table.numbers("short_factor", rope.rotary_dim / 2);
  rope.long_factors = table.numbers("long_factor", rope.rotary_dim / 2);
  const double stretched = table.positive(
      "factor", std::max(1.0, static_cast<double>(max_positions) / static_cast<double>(rope.original_max_positions)));
  rope.attention_factor =
      table.positive("attention_factor", longrope_attention_factor(stretched, rope.original_max_positions));
}

}  // namespace

RopeSpec ConfigReader::rope(std::int64_t head_dim, std::int64_t max_positions, const RopeKeys& keys) {
  // transformers 5 takes rope_scaling before rope_parameters when a file holds both.
  const json* parameters = raw("rope_parameters");
  const json* scaling = raw("rope_scaling");
  const json empty = json::object();
  RopeTable table(*this, scaling ? "rope_scaling" : "rope_parameters",
                  keys.table   ? *keys.table
                  : scaling    ? *scaling
                  : parameters ? *parameters
                               : empty);

  RopeSpec rope;
  // In the table, or beside it; only what is in neither is the family's default.
  const auto either = [&](const char* inside, const char* beside, double fallback) {
    raw(beside);
    return table.find(inside) ? table.number(inside, {}) : number(beside, fallback);
  };
  rope.theta = either("rope_theta", keys.theta_key, keys.theta);
  const double part = either("partial_rotary_factor", keys.part_key, keys.part.value_or(1.0));
  if (!keys.part && part != 1) refuse(fmt::format("{} is {}; supported is 1", keys.part_key, part));
  if (!(part >= 0 && part <= 1)) refuse(fmt::format("{} is {}; it must lie between 0 and 1", keys.part_key, part));
  rope.rotary_dim = static_cast<std::int64_t>(static_cast<double>(head_dim) * part);
  const json* type = table.find("rope_type");
  if (!type) type = table.find("type");
  std::string kind = !type ? "default" : type->is_string() ? type->get<std::string>() : type->dump();
  if (kind == "su" || (kind == "yarn" && keys.yarn_is_longrope)) kind = "longrope";

  if (kind == "llama3" || kind == "yarn" || kind == "longrope") {
    const json* given = raw("original_max_position_embeddings");  // beside the table it has precedence
    const json* inside = table.find("original_max_position_embeddings");
    if (!given) given = inside;
    if (given && (!given->is_number_integer() || given->get<double>() < 1))
      refuse(fmt::format("original_max_position_embeddings must be an integer of at least 1; it is {}", given->dump()));
    rope.original_max_positions =
        given ? given->get<std::int64_t>() : keys.original_max_positions.value_or(max_positions);
  }
  if (kind == "default") {
    rope.kind = RopeKind::plain;
  } else if (kind == "linear") {
    rope.kind = RopeKind::linear;
    rope.factor = table.positive("factor", {});
  } else if (kind == "dynamic") {
    rope.kind = RopeKind::dynamic;
    rope.factor = table.positive("factor", {});
    rope.original_max_positions = max_positions;
  } else if (kind == "llama3") {
    rope.kind = RopeKind::llama3;
    rope.factor = table.positive("factor", {});
    rope.low_frequency_factor = table.positive("low_freq_factor", {});
    rope.high_frequency_factor = table.positive("high_freq_factor", {});
    table.in_order("low_freq_factor", rope.low_frequency_factor, "high_freq_factor", rope.high_frequency_factor, false);
  } else if (kind == "yarn") {
    read_yarn(table, rope, max_positions);
  } else if (kind == "longrope") {
    read_longrope(table, rope, max_positions);
  } else {
    refuse(fmt::format("{} has type \"{}\"; supported RoPE types are default, linear, llama3, yarn, dynamic, longrope",
                       table.name(), kind));
  }
  for (const char* key : keys.also) table.find(key);
  for (const std::string& line : table.finish(kind, rope)) note(line);
  return rope;
}

ordered_json rope_scaling_of(const RopeSpec& rope) {
  switch (rope.kind) {
    case RopeKind::none:
    case RopeKind::plain:
      return nullptr;
    case RopeKind::linear:
      return {{"rope_type", "linear"}, {"factor", rope.factor}};
    case RopeKind::dynamic:
      return {{"rope_type", "dynamic"}, {"factor", rope.factor}};
    case RopeKind::llama3:
      return {{"rope_type", "llama3"},
              {"factor", rope.factor},
              {"low_freq_factor", rope.low_frequency_factor},
              {"high_freq_factor", rope.high_frequency_factor},
              {"original_max_position_embeddings", rope.original_max_positions}};
    case RopeKind::longrope:
      return {{"rope_type", "longrope"},
              {"short_factor", rope.short_factors},
              {"long_factor", rope.long_factors},
              {"original_max_position_embeddings", rope.original_max_positions},
              {"attention_factor", rope.attention_factor}};
    case RopeKind::yarn: {
      ordered_json scaling = {{"rope_type", "yarn"},
                              {"factor", rope.factor},
                              {"original_max_position_embeddings", rope.original_max_positions},
                              {"beta_fast", rope.beta_fast},
                              {"beta_slow", rope.beta_slow},
                              {"attention_factor", rope.attention_factor}};
      if (!rope.truncate) scaling["truncate"] = false;
      return scaling;
    }
  }
  return nullptr;
}

void write_rope(const RopeSpec& rope, ordered_json& config) {
  config["rope_theta"] = rope.theta;
  config["rope_scaling"] = rope_scaling_of(rope);
  // Where transformers looks first.
  if (rope.kind == RopeKind::longrope) config["original_max_position_embeddings"] = rope.original_max_positions;
}

}  // namespace longhaul
