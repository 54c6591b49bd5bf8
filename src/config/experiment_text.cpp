#include "config/experiment_text.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/json.h"
#include "config/yaml_load.h"

namespace longhaul::config {
namespace {

using nlohmann::json;

// How deep values go: a mapping of names to mappings of keys to lists.
constexpr int levels = 3;

Value from_yaml(const YAML::Node& node, int left = levels) {
  Value value;
  if (node.IsScalar()) {
    // yaml-cpp tags plain scalars "?" and quoted ones "!".
    if (node.Tag() == "?" || node.Tag().empty()) return resolve_scalar(node.Scalar());
    value.kind = Value::Kind::text;
    value.text = node.Scalar();
  } else if (node.IsSequence()) {
    value.kind = Value::Kind::list;
    value.text = "a list";
    if (left > 0)
      for (const auto& element : node) value.list.push_back(from_yaml(element, left - 1));
  } else if (node.IsMap()) {
    value.kind = Value::Kind::map;
    value.text = "a mapping";
    if (left > 0)
      for (const auto& element : node) {
        value.names.push_back(element.first.IsScalar() ? element.first.Scalar() : "");
        value.list.push_back(from_yaml(element.second, left - 1));
      }
  } else {
    value.text = "null";
  }
  return value;
}

Value from_json(const json& node, int left = levels) {
  Value value;
  value.text = node.is_structured() ? "" : node.dump(-1, ' ', false, json::error_handler_t::replace);
  switch (node.type()) {
    case json::value_t::boolean:
      value.kind = Value::Kind::boolean;
      value.boolean = node.get<bool>();
      break;
    case json::value_t::number_unsigned:
      if (node.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
        value.kind = Value::Kind::number;
        value.number = node.get<double>();
        break;
      }
      [[fallthrough]];
    case json::value_t::number_integer:
      value.kind = Value::Kind::integer;
      value.integer = node.get<std::int64_t>();
      value.number = static_cast<double>(value.integer);
      break;
    case json::value_t::number_float:
      value.kind = Value::Kind::number;
      value.number = node.get<double>();
      break;
    case json::value_t::string:
      value.kind = Value::Kind::text;
      value.text = node.get<std::string>();
      break;
    case json::value_t::array:
      value.kind = Value::Kind::list;
      value.text = "a list";
      if (left > 0)
        for (const json& element : node) value.list.push_back(from_json(element, left - 1));
      break;
    case json::value_t::object:
      value.kind = Value::Kind::map;
      value.text = "a mapping";
      if (left > 0)
        for (const auto& [name, element] : node.items()) {
          value.names.push_back(name);
          value.list.push_back(from_json(element, left - 1));
        }
      break;
    default:
      value.text = "null";
  }
  return value;
}

int line_of(const YAML::Node& node) {
  return node.Mark().line + 1;
}

}  // namespace

std::vector<Entry> read_yaml_entries(const std::string& text, const std::string& origin) {
  const YAML::Node root = load_yaml(text, origin);
  std::vector<Entry> entries;
  if (!root || root.IsNull()) return entries;
  if (!root.IsMap()) fail("{}: an experiment is a mapping of sections, such as `training:`", origin);
  std::set<std::string> section_names;
  for (const auto& section : root) {
    const std::string where = at_line(origin, line_of(section.first));
    if (!section.first.IsScalar()) fail("{}: a section's name must be a text", where);
    const std::string name = section.first.Scalar();
    if (!section_names.insert(name).second)
      fail("{}: the section {} stands twice; put its keys under one heading", where, name);
    if (section.second.IsNull()) {
      entries.push_back({name, "", {}, line_of(section.first)});
      continue;
    }
    if (!section.second.IsMap())
      fail("{}: {} must be a section: a mapping of keys to values, each on its own indented line", where, name);
    if (section.second.size() == 0) entries.push_back({name, "", {}, line_of(section.first)});
    std::set<std::string> key_names;
    for (const auto& entry : section.second) {
      const int line = line_of(entry.first);
      if (!entry.first.IsScalar()) fail("{}: a key of {} must be a text", at_line(origin, line), name);
      const std::string key = entry.first.Scalar();
      if (!key_names.insert(key).second)
        fail("{}: the key {}.{} stands twice; keep one of them", at_line(origin, line), name, key);
      entries.push_back({name, key, from_yaml(entry.second), line});
    }
  }
  return entries;
}

std::vector<Entry> read_json_entries(const std::string& text, const std::string& origin) {
  JsonLines lines;
  const json root = parse_json(text, origin, &lines);  // refuses duplicates
  if (!root.is_object()) fail("{}: an experiment is an object of sections, such as \"training\"", origin);
  std::vector<Entry> entries;
  for (const auto& [name, section] : root.items()) {
    if (name == "$schema" && section.is_string()) continue;  // for editors
    const int line = lines["/" + name];
    if (!section.is_object())
      fail("{}: {} must be a section: an object of keys and values", at_line(origin, line), name);
    if (section.empty()) entries.push_back({name, "", {}, line});
    for (const auto& [key, value] : section.items())
      entries.push_back({name, key, from_json(value), lines["/" + name + "/" + key]});
  }
  // Messages name the first mistake of the file, not the first by alphabet.
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.line < b.line; });
  return entries;
}

Value yaml_value(const std::string& text, const std::string& where) {
  return from_yaml(load_yaml(text, where));
}

Value resolve_scalar(const std::string& text) {
  Value value;
  value.text = text;
  if (text.empty() || text == "~" || text == "null" || text == "Null" || text == "NULL") {
    value.text = "null";
    return value;
  }
  for (bool truth : {false, true})
    for (const char* name : truth ? std::array{"true", "True", "TRUE"} : std::array{"false", "False", "FALSE"})
      if (text == name) {
        value.kind = Value::Kind::boolean;
        value.boolean = truth;
        return value;
      }
  value.kind = Value::Kind::text;
  const char* begin = text.data() + (text[0] == '+' ? 1 : 0);
  const char* end = text.data() + text.size();
  if (begin == end || text.find_first_not_of("+-.0123456789eE") != std::string::npos) return value;
  if (text[0] == '+' && (begin[0] == '-' || begin[0] == '+')) return value;
  std::int64_t integer = 0;
  if (const auto [stop, error] = std::from_chars(begin, end, integer); error == std::errc() && stop == end) {
    value.kind = Value::Kind::integer;
    value.integer = integer;
    value.number = static_cast<double>(integer);
    return value;
  }
  double number = 0;
  if (const auto [stop, error] = std::from_chars(begin, end, number); error == std::errc() && stop == end) {
    value.kind = Value::Kind::number;
    value.number = number;
  }
  return value;
}

}  // namespace longhaul::config
