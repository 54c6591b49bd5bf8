// From files and overrides to the typed struct.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/json.h"
#include "base/nearest_name.h"
#include "config/experiment_keys.h"
#include "config/experiment_text.h"
#include "config/yaml_load.h"

namespace longhaul {
namespace config {
namespace {

using nlohmann::json;

bool is_utf8(const std::string& text) {
  try {
    json(text).dump();  // strict by default
    return true;
  } catch (const json::type_error&) {
    return false;
  }
}

const Key& known_key(const std::string& section, const std::string& name, const std::string& where) {
  const bool known_section =
      std::any_of(sections().begin(), sections().end(), [&](const Section& s) { return s.name == section; });
  if (!known_section) refuse_section(where, section);
  const Key* key = find_key(section, name);
  if (!key) refuse_key(where, section, name);
  return *key;
}

std::string shown(const Value& value) {
  if (value.kind == Value::Kind::text) return '"' + value.text + '"';
  if (value.kind == Value::Kind::map && !value.names.empty()) {
    std::string text;
    for (std::size_t i = 0; i < value.names.size(); ++i)
      text += (i ? ", " : "") + value.names[i] + ": " + shown(value.list[i]);
    return "a mapping, {" + text + "}";
  }
  if (value.kind != Value::Kind::list) return value.text;
  std::string text;
  for (const Value& element : value.list) text += (text.empty() ? "" : ", ") + shown(element);
  return "[" + text + "]";
}

[[noreturn]] void refuse_value(const std::string& where, const Key& key, const Value& value, const char* hint = "") {
  fail("{}: {} must be {}; it is {}{}", where, key.full_name(), allowed(key), shown(value), hint);
}

/// Turns one Value into the type of one key's field.
struct Assigner {
  Experiment& experiment;
  const Key& key;
  const Value& value;
  const std::string& where;
  const std::filesystem::path& folder;

  [[noreturn]] void refuse(const char* hint = "") const { refuse_value(where, key, value, hint); }
  bool is_auto() const { return key.automatic && value.kind == Value::Kind::text && value.text == "auto"; }

  double number(const Value& given) const {
    if (given.kind != Value::Kind::integer && given.kind != Value::Kind::number) refuse();
    const Limits& limits = key.limits;
    // Written so that NaN is refused.
    if (!(given.number >= limits.minimum && given.number <= limits.maximum) || std::isinf(given.number)) refuse();
    if (limits.below_maximum && given.number == limits.maximum) refuse();
    return given.number;
  }
  std::int64_t integer() const {
    if (value.kind == Value::Kind::number) refuse(" (write it without point or exponent)");
    if (value.kind != Value::Kind::integer) refuse();
    number(value);
    return value.integer;
  }
  const std::string& text(const Value& given) const {
    if (given.kind == Value::Kind::list || given.kind == Value::Kind::map || given.kind == Value::Kind::null) refuse();
    if (given.kind != Value::Kind::text) refuse(" (to mean a text, write it in quotes)");
    if (given.text.find('\0') != std::string::npos) refuse(" (it holds a zero byte)");
    if (!is_utf8(given.text)) refuse(" (it is not UTF-8, so the resolved experiment could not repeat it)");
    return given.text;
  }
  std::filesystem::path path(const Value& given) const {
    const std::string& name = text(given);
    if (name.empty()) refuse(" (empty)");
    std::filesystem::path path = (folder / name).lexically_normal();
    // A name may hold these characters; what does not exist was meant for a shell.
    std::error_code ignored;
    if ((name.starts_with('~') || name.find('$') != std::string::npos) && !std::filesystem::exists(path, ignored))
      refuse(name.starts_with('~')
                 ? " (~ is not expanded here: write the whole path)"
                 : " ($NAME is not expanded here: write the path itself, or let the shell expand it)");
    if (!path.has_filename() && path.has_parent_path() && path != path.root_path()) path = path.parent_path();
    return path;
  }

  void operator()(Access<bool> field) const {
    if (value.kind != Value::Kind::boolean) refuse();
    field(experiment) = value.boolean;
  }
  void operator()(Access<std::optional<bool>> field) const {
    if (value.kind != Value::Kind::boolean) refuse();
    field(experiment) = value.boolean;
  }
  void operator()(Access<std::vector<DataSet>> field) const {
    if (value.kind != Value::Kind::map) refuse();
    std::vector<DataSet> sets;
    for (std::size_t i = 0; i < value.names.size(); ++i) {
      const std::string& name = value.names[i];
      check_data_set_name(key, name, where);
      for (const DataSet& other : sets)
        if (other.name == name) fail("{}: {} of {} stands twice; give each its own name", where, name, key.full_name());
      sets.emplace_back().name = name;
      assign_data_set(sets.back(), key, value.list[i], where, folder);
    }
    field(experiment) = sets;
  }
  void operator()(Access<std::optional<RopeOverride>> field) const {
    assign_rope(field(experiment), key, value, where);
  }
  void operator()(Access<std::int64_t> field) const { field(experiment) = integer(); }
  void operator()(Access<std::optional<std::int64_t>> field) const {
    if (is_auto())
      field(experiment).reset();
    else
      field(experiment) = integer();
  }
  void operator()(Access<double> field) const { field(experiment) = number(value); }
  void operator()(Access<std::optional<double>> field) const {
    if (is_auto() || (key.nullable && value.kind == Value::Kind::null))
      field(experiment).reset();
    else
      field(experiment) = number(value);
  }
  void operator()(Access<std::array<double, 2>> field) const {
    if (value.kind != Value::Kind::list || value.list.size() != 2) refuse();
    field(experiment) = {number(value.list[0]), number(value.list[1])};
  }
  void operator()(Access<std::string> field) const {
    if (text(value).empty()) refuse(" (empty)");
    field(experiment) = value.text;
  }
  void operator()(Access<std::filesystem::path> field) const {
    if (key.nullable && value.kind == Value::Kind::null)
      field(experiment).clear();
    else if (value.kind == Value::Kind::text &&
             std::find(key.choices.begin(), key.choices.end(), value.text) != key.choices.end())
      field(experiment) = value.text;  // a word, not a file of that name
    else
      field(experiment) = path(value);
  }
  void operator()(Access<std::vector<std::string>> field) const {
    if (value.kind != Value::Kind::list) refuse();
    std::vector<std::string> texts;
    for (const Value& element : value.list) texts.push_back(text(element));
    field(experiment) = texts;
  }
  void operator()(Access<std::vector<std::filesystem::path>> field) const {
    std::vector<std::filesystem::path> paths;
    if (value.kind == Value::Kind::list)
      for (const Value& element : value.list) paths.push_back(path(element));
    else
      paths.push_back(path(value));
    field(experiment) = paths;
  }
  void entry(const MapAccess& map, const std::string& name, const Value& given) const {
    const auto known = std::find_if(map.entries.begin(), map.entries.end(),
                                    [&](const MapEntry& candidate) { return candidate.name == name; });
    if (known == map.entries.end()) {
      std::vector<std::string> names;
      for (const MapEntry& candidate : map.entries) names.emplace_back(candidate.name);
      const std::string nearest = nearest_name(name, names);
      fail("{}: {} has no '{}'{}; it is {}", where, key.full_name(), name,
           nearest.empty() ? "" : fmt::format(" (did you mean {}?)", nearest), allowed(key));
    }
    if (known->choices.empty()) {
      if (given.kind != Value::Kind::integer) refuse(" (each is written without point or exponent)");
      number(given);
      return known->set(experiment, given.integer);
    }
    for (std::size_t i = 0; i < known->choices.size(); ++i)
      if (given.kind == Value::Kind::text && known->choices[i] == given.text)
        return known->set(experiment, static_cast<std::int64_t>(i));
    refuse();
  }
  void operator()(const MapAccess& map) const {
    if (value.kind == Value::Kind::text && value.text == map.unset) return map.reset(experiment);
    if (value.kind == Value::Kind::integer && !map.plain.empty()) {
      map.reset(experiment);
      return entry(map, std::string(map.plain), value);
    }
    if (value.kind != Value::Kind::map || value.names.empty()) refuse();
    map.reset(experiment);
    for (std::size_t i = 0; i < value.names.size(); ++i) {
      if (std::find(value.names.begin(), value.names.begin() + static_cast<std::ptrdiff_t>(i), value.names[i]) !=
          value.names.begin() + static_cast<std::ptrdiff_t>(i))
        fail("{}: {} of {} stands twice; keep one of them", where, value.names[i], key.full_name());
      entry(map, value.names[i], value.list[i]);
    }
  }
  void operator()(ChoiceAccess field) const {
    if (is_auto()) return field.set(experiment, -1);
    if (value.kind == Value::Kind::text || value.kind == Value::Kind::integer)
      for (std::size_t i = 0; i < key.choices.size(); ++i)
        if (key.choices[i] == value.text) return field.set(experiment, static_cast<int>(i));
    refuse();
  }
};

/// A value on the command line is YAML, but for a pattern (*.txt), which a file has to quote.
Value override_value(const std::string& text, const std::string& where) {
  if (!text.starts_with('*')) return yaml_value(text, where);
  Value value;
  value.kind = Value::Kind::text;
  value.text = text;
  return value;
}

void apply_override(Experiment& experiment, const std::string& argument) {
  std::string text = argument;
  if (text.starts_with("--")) text = text.substr(2);
  const std::size_t equals = text.find('=');
  const std::string name = text.substr(0, equals);
  const std::string where = fmt::format("override {}", argument);
  if (equals == std::string::npos) fail("{}: overrides are written section.key=value", where);
  const std::size_t dot = name.find('.');
  if (dot == std::string::npos) {
    std::string hint;
    for (const Key& key : keys())
      if (key.name == name) hint += (hint.empty() ? "; did you mean " : " or ") + key.full_name();
    fail("{}: overrides are written section.key=value{}{}", where, hint, hint.empty() ? "" : "?");
  }
  const Value value = override_value(text.substr(equals + 1), where);
  if (const std::size_t second = name.find('.', dot + 1); second != std::string::npos) {
    const Key& map = known_key(name.substr(0, dot), name.substr(dot + 1, second - dot - 1), where);
    return assign_entry(experiment, map, name.substr(second + 1), value, where, std::filesystem::current_path());
  }
  const Key& key = known_key(name.substr(0, dot), name.substr(dot + 1), where);
  assign(experiment, key, value, where, std::filesystem::current_path());
}

}  // namespace

void assign(Experiment& experiment, const Key& key, const Value& value, const std::string& where,
            const std::filesystem::path& folder) {
  std::visit(Assigner{experiment, key, value, where, folder}, key.field);
}

void assign_entry(Experiment& experiment, const Key& key, const std::string& name, const Value& value,
                  const std::string& where, const std::filesystem::path& folder) {
  if (const auto* sets = std::get_if<Access<std::vector<DataSet>>>(&key.field)) {
    const std::size_t dot = name.find('.');
    const std::string own = name.substr(0, dot);
    check_data_set_name(key, own, where);
    auto& all = (*sets)(experiment);
    auto set = std::find_if(all.begin(), all.end(), [&](const DataSet& one) { return one.name == own; });
    if (set == all.end()) set = all.insert(all.end(), DataSet{.name = own});
    if (dot != std::string::npos) return assign_field(*set, key, name.substr(dot + 1), value, where, folder);
    *set = DataSet{.name = own};
    return assign_data_set(*set, key, value, where, folder);
  }
  if (const auto* rope = std::get_if<Access<std::optional<RopeOverride>>>(&key.field)) {
    auto& given = (*rope)(experiment);
    RopeOverride one = given.value_or(RopeOverride{});
    assign_rope_field(one, key, name, value, where);
    given = one;
    return;
  }
  const auto* map = std::get_if<MapAccess>(&key.field);
  if (!map) fail("{}: {} is no mapping, so it has no '{}'; it is {}", where, key.full_name(), name, allowed(key));
  Assigner{experiment, key, value, where, {}}.entry(*map, name, value);
}

void refuse_section(const std::string& where, const std::string& section) {
  std::vector<std::string> names;
  std::string hint;
  for (const Section& known : sections()) names.emplace_back(known.name);
  if (const std::string nearest = nearest_name(section, names); !nearest.empty())
    hint = fmt::format(" (did you mean {}?)", nearest);
  for (const Key& key : keys())
    if (hint.empty() && key.name == section) hint = fmt::format(" (did you mean {}?)", key.full_name());
  fail("{}: unknown section {}{}; the sections are {}", where, section, hint, join_names(names));
}

void refuse_key(const std::string& where, const std::string& section, const std::string& name) {
  std::vector<std::string> names;
  std::string hint;
  for (const Key& key : keys())
    if (key.section == section) names.emplace_back(key.name);
  if (const std::string nearest = nearest_name(name, names); !nearest.empty())
    hint = fmt::format(" (did you mean {}.{}?)", section, nearest);
  for (const Key& key : keys())
    if (key.name == name) hint = fmt::format(" (did you mean {}?)", key.full_name());
  fail("{}: unknown key {}.{}{}; {} has {}", where, section, name, hint, section, join_names(names));
}

}  // namespace config

Experiment::Experiment() {
  for (const config::Key& key : config::keys())
    if (!key.fallback.empty())
      config::assign(*this, key, config::yaml_value(std::string(key.fallback), "default"), "default", {});
}

Experiment parse_experiment(const std::string& text, const std::filesystem::path& origin,
                            const std::vector<std::string>& overrides) {
  const std::string name = origin.string();
  const std::filesystem::path folder = std::filesystem::absolute(origin).lexically_normal().parent_path();
  const std::string ending = origin.extension().string();
  if (ending != ".yaml" && ending != ".yml" && ending != ".json")
    fail("{}: an experiment file ends in .yaml, .yml or .json", name);

  Experiment experiment;
  for (const config::Entry& entry :
       ending == ".json" ? config::read_json_entries(text, name) : config::read_yaml_entries(text, name)) {
    const std::string where = config::at_line(name, entry.line);
    if (entry.key.empty()) {  // an empty section: only its name is checked
      const auto& known = config::sections();
      if (std::none_of(known.begin(), known.end(), [&](const auto& s) { return s.name == entry.section; }))
        config::refuse_section(where, entry.section);
      continue;
    }
    config::assign(experiment, config::known_key(entry.section, entry.key, where), entry.value, where, folder);
  }
  for (const std::string& argument : overrides) config::apply_override(experiment, argument);

  if (experiment.job.name.empty()) experiment.job.name = origin.stem().string();
  if (experiment.job.folder.empty()) experiment.job.folder = folder / "runs" / experiment.job.name;
  try {
    check_experiment(experiment);
  } catch (const Error& error) {
    fail("{}: {}", name, error.what());
  }
  return experiment;
}

Experiment load_experiment(const std::filesystem::path& file, const std::vector<std::string>& overrides) {
  const std::string text = read_text_file(file);
  constexpr std::size_t limit = std::size_t{4} << 20;
  if (text.size() > limit) fail("{}: {} bytes; an experiment file has at most {}", file.string(), text.size(), limit);
  return parse_experiment(text, file, overrides);
}

}  // namespace longhaul
