// Our own spec JSON: reading and writing, by the one list of fields in spec_fields.h.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/nearest_name.h"
#include "model/rope.h"
#include "model/spec_fields.h"

namespace longhaul {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;
using spec_fields::Range;

bool inside(double value, const Range& range) {
  return std::isfinite(value) && value >= range.minimum && value <= range.maximum &&
         !(range.above_minimum && value == range.minimum);
}

std::string described(const Range& range, const std::string& type) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  if (range.maximum < infinity) return fmt::format("{} from {:.0f} to {:.0f}", type, range.minimum, range.maximum);
  if (range.minimum > -infinity)
    return fmt::format("{} {} {}", type, range.above_minimum ? "above" : "of at least", range.minimum);
  return type;
}

class Reader {
 public:
  Reader(const json& object, std::string origin, std::string path)
      : object_(object), origin_(std::move(origin)), path_(std::move(path)) {
    if (!object.is_object()) refuse_shape("an object");
  }

  bool shows_all() const { return false; }

  void integer(const char* name, std::int64_t& target, std::optional<std::int64_t> fallback, Range range, const char*) {
    const json* value = find(name, fallback.has_value());
    if (!value) {
      target = *fallback;
      return;
    }
    // is_number_integer is true of unsigned numbers too, which get<int64_t> would wrap: go through double for limits.
    if (!value->is_number_integer() || !inside(value->get<double>(), range))
      refuse(name, *value, described(range, "an integer"));
    target = value->get<std::int64_t>();
  }
  void number(const char* name, double& target, std::optional<double> fallback, Range range, const char*) {
    const json* value = find(name, fallback.has_value());
    if (!value) {
      target = *fallback;
      return;
    }
    if (!value->is_number() || !inside(value->get<double>(), range)) refuse(name, *value, described(range, "a number"));
    target = value->get<double>();
  }
  void boolean(const char* name, bool& target, std::optional<bool> fallback, const char*) {
    const json* value = find(name, fallback.has_value());
    if (value && !value->is_boolean()) refuse(name, *value, "true or false");
    target = value ? value->get<bool>() : *fallback;
  }
  template <typename Enum, std::size_t count>
  void choice(const char* name, Enum& target, const std::string_view (&names)[count], std::optional<Enum> fallback,
              const char*) {
    const json* value = find(name, fallback.has_value());
    if (!value) {
      target = *fallback;
      return;
    }
    std::vector<std::string> allowed;
    for (std::size_t i = 0; i < count; ++i) {
      if (names[i] == "none") continue;  // written as null
      allowed.emplace_back(names[i]);
      if (value->is_string() && value->get_ref<const std::string&>() == names[i]) {
        target = static_cast<Enum>(i);
        return;
      }
    }
    refuse(name, *value, "one of " + join_names(allowed));
  }
  void constant(const char* name, const char* text, const char*) {
    const json* value = find(name, false);
    if (*value != text) refuse(name, *value, fmt::format("\"{}\"", text));
  }
  template <typename T>
  void object(const char* name, T& target, const char*) {
    read_object(*find(name, false), path_ + name, target);
  }
  void optional_object(const char* name, RopeSpec& target, const char*) {
    const json* value = find(name, true);
    target = RopeSpec{};
    if (value && !value->is_null()) read_object(*value, path_ + name, target);
  }
  void numbers(const char* name, std::vector<double>& target, Range range, const char*) {
    const json* value = find(name, false);
    bool good = value->is_array() && !value->empty();
    if (good)
      for (const json& number : *value) good = good && number.is_number() && inside(number.get<double>(), range);
    if (!good)
      refuse(name, *value, "a list of at least one number" + std::string(range.above_minimum ? " above 0" : ""));
    target = value->get<std::vector<double>>();
  }
  template <typename T>
  void list(const char* name, std::vector<T>& target, const char*) {
    const json* value = find(name, false);
    if (!value->is_array() || value->empty()) refuse(name, *value, "a list of at least one object");
    target.clear();
    for (std::size_t i = 0; i < value->size(); ++i)
      read_object((*value)[i], fmt::format("{}{}[{}]", path_, name, i), target.emplace_back());
  }

  void finish() const {
    for (const auto& [name, value] : object_.items()) {
      if (std::find(known_.begin(), known_.end(), name) != known_.end()) continue;
      if (path_.empty() && name == "$schema") continue;
      const std::string nearest = nearest_name(name, known_);
      fail("{}: unknown field {}{}{}; supported here: {}", origin_, path_, name,
           nearest.empty() ? "" : fmt::format(" (did you mean {}{}?)", path_, nearest), join_names(known_));
    }
  }

 private:
  template <typename T>
  void read_object(const json& value, const std::string& path, T& target) {
    if (!value.is_object()) fail("{}: {} must be an object; it is {}", origin_, path, value.dump());
    Reader inner(value, origin_, path + ".");
    spec_fields::describe(inner, target);
    inner.finish();
  }
  /// nullptr when the field is missing and may be.
  const json* find(const char* name, bool may_be_missing) {
    known_.emplace_back(name);
    if (const auto found = object_.find(name); found != object_.end()) return &*found;
    if (!may_be_missing) fail("{}: the field {}{} is missing", origin_, path_, name);
    return nullptr;
  }
  [[noreturn]] void refuse(const char* name, const json& value, const std::string& allowed) const {
    std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
    if (text.size() > 60) text = text.substr(0, 60) + "...";
    fail("{}: {}{} must be {}; it is {}", origin_, path_, name, allowed, text);
  }
  [[noreturn]] void refuse_shape(const char* shape) const { fail("{}: a transformer spec must be {}", origin_, shape); }

  const json& object_;
  std::string origin_, path_;
  std::vector<std::string> known_;
};

class Writer {
 public:
  ordered_json result = ordered_json::object();

  bool shows_all() const { return false; }
  void integer(const char* name, std::int64_t& value, std::optional<std::int64_t>, Range, const char*) {
    result[name] = value;
  }
  void number(const char* name, double& value, std::optional<double>, Range, const char*) {
    // 1, not 1.0: how people write it; both read back as the same double.
    if (value == std::floor(value) && std::abs(value) < 1e15)
      result[name] = static_cast<std::int64_t>(value);
    else
      result[name] = value;
  }
  void boolean(const char* name, bool& value, std::optional<bool>, const char*) { result[name] = value; }
  template <typename Enum, std::size_t count>
  void choice(const char* name, Enum& value, const std::string_view (&names)[count], std::optional<Enum>, const char*) {
    result[name] = names[static_cast<std::size_t>(value)];
  }
  void constant(const char* name, const char* text, const char*) { result[name] = text; }
  template <typename T>
  void object(const char* name, T& value, const char*) {
    result[name] = written(value);
  }
  void optional_object(const char* name, RopeSpec& value, const char*) {
    result[name] = value.kind == RopeKind::none ? ordered_json(nullptr) : written(value);
  }
  void numbers(const char* name, std::vector<double>& values, Range, const char*) { result[name] = values; }
  template <typename T>
  void list(const char* name, std::vector<T>& values, const char*) {
    result[name] = ordered_json::array();
    for (T& value : values) result[name].push_back(written(value));
  }

 private:
  template <typename T>
  static ordered_json written(T& value) {
    Writer inner;
    spec_fields::describe(inner, value);
    return inner.result;
  }
};

void finish_defaults(TransformerSpec& spec) {
  for (LayerGroup& group : spec.layers) {
    AttentionSpec& attention = group.layer.attention;
    RopeSpec& rope = group.layer.rope;
    if (attention.scale == spec_fields::computed_number)
      attention.scale = 1 / std::sqrt(static_cast<double>(attention.head_dim));
    if (rope.rotary_dim == spec_fields::computed_integer) rope.rotary_dim = attention.head_dim;
    if (rope.attention_factor == spec_fields::computed_number)
      rope.attention_factor = rope.kind == RopeKind::yarn ? yarn_attention_factor(rope.factor) : 1;
  }
}

/// What no single field can tell.
void check_combinations(const TransformerSpec& spec, const std::string& origin) {
  if (spec.layer_count() > spec_fields::most_layers)
    fail("{}: the groups of layers make {} layers together; at most {} are supported", origin, spec.layer_count(),
         spec_fields::most_layers);
  if (spec.final_norm.unit_offset && spec.final_norm.kind != NormKind::rms)
    fail("{}: final_norm.unit_offset is true; only norms of type rms have it", origin);
  for (std::size_t g = 0; g < spec.layers.size(); ++g) {
    const LayerSpec& layer = spec.layers[g].layer;
    const AttentionSpec& attention = layer.attention;
    const RopeSpec& rope = layer.rope;
    const auto refuse = [&](const std::string& message) { fail("{}: layers[{}].{}", origin, g, message); };
    if (attention.heads % attention.kv_heads != 0)
      refuse(fmt::format("attention.heads is {}; it must be a multiple of attention.kv_heads, which is {}",
                         attention.heads, attention.kv_heads));
    if (layer.norm.unit_offset && layer.norm.kind != NormKind::rms)
      refuse("norm.unit_offset is true; only norms of type rms have it");
    if (layer.branches != Branches::sequential && layer.norm_placement != NormPlacement::pre)
      refuse("branches and norm_placement: parallel branches are normalised before them only (pre)");
    if (attention.position_growth != 0 && rope.rotary_dim != attention.head_dim)
      refuse(fmt::format("attention.position_growth is {}; it needs rope with a rotary_dim of attention.head_dim, {}",
                         attention.position_growth, attention.head_dim));
    if (rope.kind == RopeKind::none) continue;
    if (rope.rotary_dim % 2 != 0 || rope.rotary_dim > attention.head_dim)
      refuse(fmt::format("rope.rotary_dim is {}; it must be even and at most attention.head_dim, which is {}",
                         rope.rotary_dim, attention.head_dim));
    if (rope.kind == RopeKind::dynamic && rope.rotary_dim < 4)
      refuse(fmt::format("rope.rotary_dim is {}; type dynamic needs at least 4", rope.rotary_dim));
    if (rope.kind == RopeKind::longrope)
      for (const auto& [name, factors] :
           {std::pair{"short_factors", &rope.short_factors}, {"long_factors", &rope.long_factors}})
        if (static_cast<std::int64_t>(factors->size()) * 2 != rope.rotary_dim)
          refuse(fmt::format("rope.{} has {} numbers; it must have rope.rotary_dim / 2, {}", name, factors->size(),
                             rope.rotary_dim / 2));
    if (rope.kind == RopeKind::llama3 && rope.high_frequency_factor <= rope.low_frequency_factor)
      refuse(fmt::format("rope.high_frequency_factor is {}; it must be larger than rope.low_frequency_factor, {}",
                         rope.high_frequency_factor, rope.low_frequency_factor));
    if (rope.kind == RopeKind::yarn && rope.beta_fast < rope.beta_slow)
      refuse(fmt::format("rope.beta_fast is {}; it must not be smaller than rope.beta_slow, {}", rope.beta_fast,
                         rope.beta_slow));
  }
}

}  // namespace

TransformerSpec spec_from_json(const json& object, const std::string& origin) {
  TransformerSpec spec;
  Reader reader(object, origin, "");
  spec_fields::describe(reader, spec);
  reader.finish();
  finish_defaults(spec);
  check_combinations(spec, origin);
  return spec;
}

ordered_json spec_to_json(const TransformerSpec& spec) {
  Writer writer;
  spec_fields::describe(writer, const_cast<TransformerSpec&>(spec));  // the writer only reads
  return writer.result;
}

std::string spec_text(const TransformerSpec& spec) {
  return spec_to_json(spec).dump(2) + "\n";
}

void check_spec(const TransformerSpec& spec, const std::string& origin) {
  // Reading back what would be written applies every limit of every field.
  spec_from_json(json(spec_to_json(spec)), origin);
}

}  // namespace longhaul
