// model.rope: fields of a spec's `rope`, by their names there. What a type needs and what it does not know is told when
// it is put into a model (run/model_overrides.h).
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/nearest_name.h"
#include "config/experiment_keys.h"

namespace longhaul::config {

const std::vector<RopeField>& rope_fields() {
  using Kind = RopeField::Kind;
  static const std::vector<RopeField> fields = {{"theta", Kind::number},
                                                {"factor", Kind::number},
                                                {"original_max_positions", Kind::integer},
                                                {"low_frequency_factor", Kind::number},
                                                {"high_frequency_factor", Kind::number},
                                                {"beta_fast", Kind::number},
                                                {"beta_slow", Kind::number},
                                                {"truncate", Kind::boolean},
                                                {"attention_factor", Kind::number},
                                                {"short_factors", Kind::list},
                                                {"long_factors", Kind::list}};
  return fields;
}

const std::vector<std::string_view>& rope_types() {
  static const std::vector<std::string_view> types = {"default", "linear", "llama3", "yarn", "dynamic", "longrope"};
  return types;
}

namespace {

bool is_positive(const Value& value) {
  return (value.kind == Value::Kind::integer || value.kind == Value::Kind::number) && value.number > 0 &&
         std::isfinite(value.number);
}

template <typename T>
void set(std::vector<std::pair<std::string, T>>& list, const std::string& name, T value) {
  for (auto& [known, old] : list)
    if (known == name) {
      old = std::move(value);
      return;
    }
  list.emplace_back(name, std::move(value));
  const auto place = [](const std::string& one) {
    const auto& fields = rope_fields();
    return std::find_if(fields.begin(), fields.end(), [&](const RopeField& field) { return field.name == one; }) -
           fields.begin();
  };
  std::sort(list.begin(), list.end(), [&](const auto& a, const auto& b) { return place(a.first) < place(b.first); });
}

}  // namespace

void assign_rope_field(RopeOverride& rope, const Key& key, const std::string& name, const Value& value,
                       const std::string& where) {
  const std::string full = key.full_name() + "." + name;
  if (name == "type") {
    const auto& types = rope_types();
    if (value.kind != Value::Kind::text || std::find(types.begin(), types.end(), value.text) == types.end())
      fail("{}: {} must be one of {}; it is {}", where, full, fmt::join(types, ", "), value.text);
    rope.type = value.text;
    return;
  }
  std::vector<std::string> names{"type"};
  for (const RopeField& field : rope_fields()) {
    names.emplace_back(field.name);
    if (field.name != name) continue;
    switch (field.kind) {
      case RopeField::Kind::boolean:
        if (value.kind != Value::Kind::boolean) fail("{}: {} must be true or false; it is {}", where, full, value.text);
        rope.truncate = value.boolean;
        return;
      case RopeField::Kind::list: {
        std::vector<double> numbers;
        if (value.kind != Value::Kind::list || value.list.empty() ||
            !std::all_of(value.list.begin(), value.list.end(), is_positive))
          fail("{}: {} must be a list of numbers above 0, half of what turns of a head; it is {}", where, full,
               value.text);
        for (const Value& one : value.list) numbers.push_back(one.number);
        return set(rope.lists, name, std::move(numbers));
      }
      case RopeField::Kind::integer:
        if (value.kind != Value::Kind::integer || value.integer < 1)
          fail("{}: {} must be an integer of at least 1; it is {}", where, full, value.text);
        return set(rope.numbers, name, value.number);
      case RopeField::Kind::number:
        if (!is_positive(value)) fail("{}: {} must be a number above 0; it is {}", where, full, value.text);
        return set(rope.numbers, name, value.number);
    }
  }
  const std::string nearest = nearest_name(name, names);
  fail("{}: {} has no '{}'{}; it may have {}", where, key.full_name(), name,
       nearest.empty() ? "" : fmt::format(" (did you mean {}?)", nearest), fmt::join(names, ", "));
}

void assign_rope(std::optional<RopeOverride>& rope, const Key& key, const Value& value, const std::string& where) {
  if (value.kind == Value::Kind::null) return rope.reset();
  if (value.kind != Value::Kind::map)
    fail("{}: {} must be {}; it is {}", where, key.full_name(), allowed(key), value.text);
  RopeOverride given;
  for (std::size_t i = 0; i < value.names.size(); ++i) {
    const auto here = value.names.begin() + static_cast<std::ptrdiff_t>(i);
    if (std::find(value.names.begin(), here, *here) != here)
      fail("{}: {} of {} stands twice; keep one of them", where, *here, key.full_name());
    assign_rope_field(given, key, *here, value.list[i], where);
  }
  rope = given;
}

std::string print_rope(const RopeOverride& rope) {
  std::string text = rope.type.empty() ? "" : "type: " + rope.type;
  const auto add = [&](std::string_view name, const std::string& value) {
    text += fmt::format("{}{}: {}", text.empty() ? "" : ", ", name, value);
  };
  for (const auto& [name, value] : rope.numbers) add(name, fmt::format("{}", value));
  if (rope.truncate) add("truncate", *rope.truncate ? "true" : "false");
  for (const auto& [name, values] : rope.lists) add(name, fmt::format("[{}]", fmt::join(values, ", ")));
  return "{" + text + "}";
}

}  // namespace longhaul::config
