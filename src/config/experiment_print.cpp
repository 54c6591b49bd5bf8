// From the typed struct and the table to text: YAML, JSON Schema, documentation.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "config/experiment_keys.h"

namespace longhaul {
namespace config {
namespace {

using nlohmann::ordered_json;

/// A double-quoted YAML text, which is also a JSON string.
std::string quoted_text(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

template <typename T, typename Print>
std::string printed_list(const T& list, Print&& print) {
  std::string text;
  for (const auto& element : list) text += (text.empty() ? "" : ", ") + print(element);
  return "[" + text + "]";
}

std::string printed(double value) {
  return fmt::format("{}", value);  // the shortest text that reads back as the same double
}

struct Printer {
  Experiment& experiment;  // read only
  const Key& key;

  std::string operator()(Access<bool> field) const { return field(experiment) ? "true" : "false"; }
  std::string operator()(Access<std::optional<bool>> field) const {
    const auto& value = field(experiment);
    return !value ? "null" : *value ? "true" : "false";
  }
  std::string operator()(Access<std::vector<DataSet>> field) const {
    std::string text;
    for (const DataSet& set : field(experiment))
      text += fmt::format("{}{}: {}", text.empty() ? "" : ", ", quoted_text(set.name), print_data_set(set, key));
    return "{" + text + "}";
  }
  std::string operator()(Access<std::optional<RopeOverride>> field) const {
    const auto& rope = field(experiment);
    return rope ? print_rope(*rope) : "null";
  }
  std::string operator()(Access<std::int64_t> field) const { return std::to_string(field(experiment)); }
  std::string operator()(Access<std::optional<std::int64_t>> field) const {
    const auto& value = field(experiment);
    return value ? std::to_string(*value) : "auto";
  }
  std::string operator()(Access<double> field) const { return printed(field(experiment)); }
  std::string operator()(Access<std::optional<double>> field) const {
    const auto& value = field(experiment);
    return value ? printed(*value) : key.automatic ? "auto" : "null";
  }
  std::string operator()(Access<std::array<double, 2>> field) const { return printed_list(field(experiment), printed); }
  std::string operator()(Access<std::string> field) const { return quoted_text(field(experiment)); }
  std::string operator()(Access<std::filesystem::path> field) const {
    const auto& value = field(experiment);
    return value.empty() ? "null" : quoted_text(value.string());
  }
  std::string operator()(Access<std::vector<std::string>> field) const {
    return printed_list(field(experiment), quoted_text);
  }
  std::string operator()(Access<std::vector<std::filesystem::path>> field) const {
    return printed_list(field(experiment), [](const auto& path) { return quoted_text(path.string()); });
  }
  std::string operator()(ChoiceAccess field) const {
    const int index = field.get(experiment);
    const std::string name = index < 0 ? "auto" : std::string(key.choices.at(static_cast<std::size_t>(index)));
    // YAML 1.1 readers take a bare off for false.
    return name == "off" ? quoted_text(name) : name;
  }
  std::string operator()(const MapAccess& map) const {
    if (!map.is_set(experiment)) return std::string(map.unset);
    std::string text, plain;
    bool only_plain = true;
    for (const MapEntry& entry : map.entries) {
      const std::int64_t value = entry.get(experiment);
      const std::string printed_value = entry.choices.empty()
                                            ? std::to_string(value)
                                            : std::string(entry.choices.at(static_cast<std::size_t>(value)));
      if (entry.name == map.plain)
        plain = printed_value;
      else if (value != entry.fallback)
        only_plain = false;
      if (value != entry.fallback) text += fmt::format("{}{}: {}", text.empty() ? "" : ", ", entry.name, printed_value);
    }
    return only_plain && !plain.empty() ? plain : "{" + text + "}";
  }
};

ordered_json fallback_json(const Key& key) {
  const std::string text(key.fallback);
  if (text == "null" || text == "true" || text == "false" || text[0] == '[' || text[0] == '{' ||
      (text[0] >= '0' && text[0] <= '9'))
    return ordered_json::parse(text);
  return text;
}

void add_limits(ordered_json& schema, const Key& key) {
  const auto number = [&](double value) -> ordered_json {
    if (value == static_cast<double>(static_cast<std::int64_t>(value))) return static_cast<std::int64_t>(value);
    return value;
  };
  if (key.limits.minimum > -std::numeric_limits<double>::infinity()) schema["minimum"] = number(key.limits.minimum);
  if (key.limits.maximum < std::numeric_limits<double>::infinity())
    schema[key.limits.below_maximum ? "exclusiveMaximum" : "maximum"] = number(key.limits.maximum);
}

ordered_json key_schema(const Key& key) {
  const std::string type = type_name(key);
  ordered_json schema = ordered_json::object();
  schema["description"] = key.meaning;
  if (!key.fallback.empty()) schema["default"] = fallback_json(key);
  ordered_json shape = ordered_json::object();
  if (type == "choice") {
    shape["enum"] = ordered_json::array();
    for (std::string_view choice : key.choices) {
      const bool number = choice.find_first_not_of("0123456789") == std::string_view::npos;
      shape["enum"].push_back(number ? ordered_json::parse(choice) : ordered_json(choice));
    }
    if (key.automatic) shape["enum"].push_back("auto");
    schema.update(shape);
    return schema;
  }
  if (std::holds_alternative<Access<std::vector<DataSet>>>(key.field)) {
    shape["type"] = "object";
    shape["additionalProperties"] = false;
    for (const Key& field : data_set_fields())
      if (has_field(key, field)) shape["properties"][std::string(field.name)] = key_schema(field);
    schema["type"] = "object";
    schema["propertyNames"] = {{"pattern", "^[A-Za-z0-9_-]+$"}};
    schema["additionalProperties"]["anyOf"] = {{{"type", "string"}, {"minLength", 1}},
                                               {{"type", "array"}, {"items", {{"type", "string"}, {"minLength", 1}}}},
                                               shape};
    return schema;
  }
  if (std::holds_alternative<Access<std::optional<RopeOverride>>>(key.field)) {
    const ordered_json positive = {{"type", "number"}, {"exclusiveMinimum", 0}};
    shape["type"] = "object";
    shape["additionalProperties"] = false;
    shape["required"] = {"type"};
    shape["properties"]["type"] = {{"enum", rope_types()}};
    for (const RopeField& field : rope_fields()) {
      ordered_json& one = shape["properties"][std::string(field.name)];
      switch (field.kind) {
        case RopeField::Kind::number:
          one = positive;
          break;
        case RopeField::Kind::integer:
          one = {{"type", "integer"}, {"minimum", 1}};
          break;
        case RopeField::Kind::list:
          one = {{"type", "array"}, {"items", positive}, {"minItems", 1}};
          break;
        case RopeField::Kind::boolean:
          one = {{"type", "boolean"}};
          break;
      }
    }
    schema["anyOf"] = ordered_json::array({shape, {{"type", "null"}}});
    return schema;
  }
  if (const auto* map = std::get_if<MapAccess>(&key.field)) {
    ordered_json integer = {{"type", "integer"}};
    add_limits(integer, key);
    shape["type"] = "object";
    shape["additionalProperties"] = false;
    shape["minProperties"] = 1;
    for (const MapEntry& entry : map->entries)
      shape["properties"][std::string(entry.name)] =
          entry.choices.empty() ? integer : ordered_json{{"enum", entry.choices}};
    schema["anyOf"] = ordered_json::array();
    if (!map->plain.empty()) schema["anyOf"].push_back(integer);
    schema["anyOf"].push_back(shape);
    schema["anyOf"].push_back({{"const", map->unset}});
    return schema;
  }
  if (type == "integer" || type == "number" || type == "boolean") {
    shape["type"] = type;
    if (type != "boolean") add_limits(shape, key);
  } else if (type == "two numbers") {
    shape["type"] = "array";
    shape["items"] = {{"type", "number"}};
    add_limits(shape["items"], key);
    shape["minItems"] = 2;
    shape["maxItems"] = 2;
  } else if (type == "list of paths" || type == "list of texts") {
    ordered_json list = {{"type", "array"}, {"items", {{"type", "string"}}}};
    if (type == "list of paths") {
      list["items"]["minLength"] = 1;
      shape["anyOf"] = {{{"type", "string"}, {"minLength", 1}}, list};
    } else {
      shape = list;
    }
  } else {
    shape["type"] = "string";
    shape["minLength"] = 1;
  }
  if (key.automatic)
    schema["anyOf"] = ordered_json::array({shape, {{"const", "auto"}}});
  else if (key.nullable)
    schema["anyOf"] = ordered_json::array({shape, {{"type", "null"}}});
  else
    schema.update(shape);
  return schema;
}

}  // namespace

std::string print_value(const Experiment& experiment, const Key& key) {
  return std::visit(Printer{const_cast<Experiment&>(experiment), key}, key.field);
}

}  // namespace config

std::string to_yaml(const Experiment& experiment) {
  std::string text;
  for (const config::Section& section : config::sections()) {
    text += fmt::format("{}:\n", section.name);
    for (const config::Key& key : config::keys())
      if (key.section == section.name) text += fmt::format("  {}: {}\n", key.name, print_value(experiment, key));
  }
  return text;
}

std::string value_of(const Experiment& experiment, const std::string& name) {
  const std::size_t dot = name.find('.');
  const std::string section = name.substr(0, dot), key_name = dot == std::string::npos ? "" : name.substr(dot + 1);
  const config::Key* key = config::find_key(section, key_name);
  if (!key) config::refuse_key("experiment", section, key_name);
  return print_value(experiment, *key);
}

std::vector<std::string> key_names() {
  std::vector<std::string> names;
  for (const config::Key& key : config::keys()) names.push_back(key.full_name());
  return names;
}

std::vector<std::pair<std::string, std::string>> values_without_paths(const Experiment& experiment) {
  std::vector<std::pair<std::string, std::string>> values;
  for (const config::Key& key : config::keys()) {
    if (std::holds_alternative<config::Access<std::vector<std::filesystem::path>>>(key.field)) continue;
    std::string value = print_value(experiment, key);
    if (const auto* sets = std::get_if<config::Access<std::vector<DataSet>>>(&key.field)) {
      Experiment without = experiment;
      for (DataSet& set : (*sets)(without)) set.files.clear();
      value = print_value(without, key);
    }
    // A word that may stand instead of a path is a value like others; a path is "a path".
    if (std::holds_alternative<config::Access<std::filesystem::path>>(key.field)) {
      if (key.choices.empty()) continue;
      const bool word = std::any_of(key.choices.begin(), key.choices.end(), [&](std::string_view one) {
        return value == config::quoted_text(std::string(one));
      });
      if (!word) value = "a path";
    }
    values.emplace_back(key.full_name(), std::move(value));
  }
  return values;
}

std::string experiment_schema() {
  using nlohmann::ordered_json;
  ordered_json schema;
  schema["$schema"] = "http://json-schema.org/draft-07/schema#";
  schema["title"] = "Longhaul experiment";
  schema["type"] = "object";
  schema["additionalProperties"] = false;
  schema["required"] = {"model"};
  schema["properties"] = ordered_json::object();
  for (const config::Section& section : config::sections()) {
    ordered_json object;
    object["description"] = section.meaning;
    object["type"] = section.name == "model" ? ordered_json("object") : ordered_json({"object", "null"});
    object["additionalProperties"] = false;
    if (section.name == "model") object["required"] = {"config"};
    object["properties"] = ordered_json::object();
    for (const config::Key& key : config::keys())
      if (key.section == section.name) object["properties"][std::string(key.name)] = config::key_schema(key);
    schema["properties"][std::string(section.name)] = object;
  }
  schema["properties"]["$schema"] = {{"type", "string"}};
  return schema.dump(2) + "\n";
}

std::string experiment_reference() {
  std::string text;
  for (const config::Section& section : config::sections()) {
    text += fmt::format("### `{}`\n\n{}\n\n| key | value | default | meaning |\n| --- | --- | --- | --- |\n",
                        section.name, section.meaning);
    for (const config::Key& key : config::keys()) {
      if (key.section != section.name) continue;
      const std::string fallback =
          key.fallback.empty() ? std::string(key.computed_default) : fmt::format("`{}`", key.fallback);
      text += fmt::format("| `{}` | {} | {} | {} |\n", key.full_name(), config::allowed(key), fallback, key.meaning);
    }
    text += "\n";
  }
  return text;
}

}  // namespace longhaul
