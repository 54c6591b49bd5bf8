// What one of data.sources or validation.sets may say. Its fields are keys like others, read and printed by the same
// code: each reaches into the first data set of whatever experiment it is given.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.h"
#include "base/nearest_name.h"
#include "config/data_format.h"
#include "config/key_access.h"

namespace longhaul::config {
namespace {

DataSet& set_of(Experiment& experiment) {
  return experiment.data.sources.front();
}

template <auto Member>
auto& field(Experiment& experiment) {
  return set_of(experiment).*Member;
}

Experiment holding(const DataSet& set) {
  Experiment experiment;
  experiment.data.sources = {set};
  return experiment;
}

std::vector<Key> make_fields() {
  std::vector<std::string_view> formats;
  for (const DataFormat* format : data_formats()) formats.push_back(format->name);
  const ChoiceAccess format = {
      [](const Experiment& e) {
        const std::string& name = e.data.sources.front().format;
        if (name.empty()) return -1;
        const auto& all = data_formats();
        return static_cast<int>(std::find(all.begin(), all.end(), &data_format(name)) - all.begin());
      },
      [](Experiment& e, int value) { set_of(e).format = data_formats()[static_cast<std::size_t>(value)]->name; }};
  const ChoiceAccess train_on = {[](const Experiment& e) {
                                   const auto& value = e.data.sources.front().train_on;
                                   return value ? static_cast<int>(*value) : -1;
                                 },
                                 [](Experiment& e, int value) { set_of(e).train_on = static_cast<TrainOn>(value); }};
  return {
      {"data", "files", field<&DataSet::files>, "", "Files, patterns and folders, as data.files."},
      {"data", "format", format, "", "As data.format, of these files. Not given: data.format.", {}, formats},
      {"data", "mask_prompt", field<&DataSet::mask_prompt>, "",
       "As data.mask_prompt, of these files. Not given: data.mask_prompt, where the format has prompts."},
      {"data",
       "train_on",
       train_on,
       "",
       "As data.train_on, of these files. Not given: data.train_on.",
       {},
       {"assistant", "last", "all"}},
      {"data", "weight", field<&DataSet::weight>, "1.0", "The source's samples in proportion to the others'.",
       at_least(1e-6)},
      {"data", "epochs", field<&DataSet::epochs>, "",
       "How often the source may be read; a run that would need more of it is refused. Not given: as often as its "
       "weight asks for.",
       at_least(1e-6)},
  };
}

}  // namespace

const std::vector<Key>& data_set_fields() {
  static const std::vector<Key> fields = make_fields();
  return fields;
}

bool has_field(const Key& key, const Key& field) {
  return std::find(key.choices.begin(), key.choices.end(), field.name) != key.choices.end();
}

bool is_unset(const DataSet& set, const Key& field) {
  return print_value(holding(set), field) == print_value(holding({}), field);
}

void check_data_set_name(const Key& key, const std::string& name, const std::string& where) {
  constexpr const char* letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
  if (name.empty() || name.find_first_not_of(letters) != std::string::npos)
    fail("{}: {} has the name '{}'; a name is made of letters, digits, _ and -", where, key.full_name(), name);
}

void assign_field(DataSet& set, const Key& key, const std::string& name, const Value& value, const std::string& where,
                  const std::filesystem::path& folder) {
  const std::string own = fmt::format("{}.{}", key.name, set.name);
  std::vector<std::string> names;
  for (const Key& field : data_set_fields()) {
    if (!has_field(key, field)) continue;
    names.emplace_back(field.name);
    if (field.name != name) continue;
    Key shown = field;
    const std::string full = own + "." + name;
    shown.section = key.section;
    shown.name = full;
    Experiment experiment = holding(set);
    assign(experiment, shown, value, where, folder);
    set = set_of(experiment);
    return;
  }
  const std::string nearest = nearest_name(name, names);
  fail("{}: {}.{} has no '{}'{}; it may have {}", where, key.section, own, name,
       nearest.empty() ? "" : fmt::format(" (did you mean {}?)", nearest), fmt::join(names, ", "));
}

void assign_data_set(DataSet& set, const Key& key, const Value& value, const std::string& where,
                     const std::filesystem::path& folder) {
  if (value.kind != Value::Kind::map) return assign_field(set, key, "files", value, where, folder);
  for (std::size_t i = 0; i < value.names.size(); ++i) {
    const auto here = value.names.begin() + static_cast<std::ptrdiff_t>(i);
    if (std::find(value.names.begin(), here, *here) != here)
      fail("{}: {} of {}.{} stands twice; keep one of them", where, *here, key.full_name(), set.name);
    assign_field(set, key, *here, value.list[i], where, folder);
  }
}

std::string print_data_set(const DataSet& set, const Key& key) {
  const Experiment experiment = holding(set);
  std::string text;
  for (const Key& field : data_set_fields())
    if (has_field(key, field) && !is_unset(set, field))
      text += fmt::format("{}{}: {}", text.empty() ? "" : ", ", field.name, print_value(experiment, field));
  return "{" + text + "}";
}

}  // namespace longhaul::config
