// Private to src/config: the table of keys and the values that files and overrides give them.
#pragma once
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "config/experiment.h"

namespace longhaul::config {

/// A scalar, a list of scalars or a mapping of names to scalars as read, before a key's type is known.
struct Value {
  enum class Kind { null, boolean, integer, number, text, list, map };
  Kind kind = Kind::null;
  bool boolean = false;
  std::int64_t integer = 0;
  double number = 0;               ///< of an integer too
  std::string text;                ///< of text; otherwise as written
  std::vector<Value> list;         ///< scalars: of a list, or of a mapping in the order of `names`
  std::vector<std::string> names;  ///< of a mapping; one may stand twice
};

template <typename T>
using Access = T& (*)(Experiment&);

/// An enumeration (or an optional one) as the index of its name in Key::choices; -1: auto.
struct ChoiceAccess {
  int (*get)(const Experiment&);
  void (*set)(Experiment&, int);
};

/// One name of a mapping: a number within the key's limits, or one of `choices` by its index.
struct MapEntry {
  std::string_view name;
  std::int64_t (*get)(const Experiment&);
  void (*set)(Experiment&, std::int64_t);  ///< sets the mapping too, when it was not
  std::int64_t fallback;                   ///< what it is when the mapping leaves it out; never printed
  std::vector<std::string_view> choices = {};
};

/// A mapping of a few names. Instead of it may stand the word `unset`, and, where there is a `plain` entry, the value
/// of that one alone.
struct MapAccess {
  std::vector<MapEntry> entries;
  bool (*is_set)(const Experiment&);
  void (*reset)(Experiment&);  ///< to unset
  std::string_view unset;      ///< "auto"
  std::string_view plain;      ///< the entry's name; "": none
  std::string_view example;    ///< "{a: 1}"
};

using Field = std::variant<Access<bool>, Access<std::int64_t>, Access<std::optional<std::int64_t>>, Access<double>,
                           Access<std::optional<double>>, Access<std::array<double, 2>>, Access<std::string>,
                           Access<std::filesystem::path>, Access<std::vector<std::string>>,
                           Access<std::vector<std::filesystem::path>>, Access<std::optional<bool>>,
                           Access<std::vector<DataSet>>, Access<std::optional<RopeOverride>>, ChoiceAccess, MapAccess>;

struct Limits {
  double minimum = -std::numeric_limits<double>::infinity();
  double maximum = std::numeric_limits<double>::infinity();
  bool below_maximum = false;  ///< the maximum itself is not allowed
};

struct Key {
  std::string_view section, name;
  Field field;
  std::string_view fallback;  ///< the default as YAML; "" when the key must be given or its default is computed
  std::string_view meaning;
  Limits limits = {};
  std::vector<std::string_view> choices = {};
  std::string_view computed_default = {};  ///< what the documentation says for an empty fallback
  bool automatic = false;                  ///< `auto` is allowed
  bool nullable = false;                   ///< null is allowed and means: not set
  std::string full_name() const { return std::string(section) + "." + std::string(name); }
};

struct Section {
  std::string_view name, meaning;
};

const std::vector<Section>& sections();
const std::vector<Key>& keys();
/// nullptr when there is none.
const Key* find_key(std::string_view section, std::string_view name);
/// "an integer of at least 1, or auto": what a key's value may be.
std::string allowed(const Key& key);
/// "integer", "list of paths": the type's name.
std::string type_name(const Key& key);

/// Sets one key. `where` begins messages ("run.yaml:12"); relative paths become `folder`/path, normalised.
void assign(Experiment& experiment, const Key& key, const Value& value, const std::string& where,
            const std::filesystem::path& folder);

/// Sets one name of a mapping, or NAME.FIELD of one of data sets, and leaves the others as they are.
void assign_entry(Experiment& experiment, const Key& key, const std::string& name, const Value& value,
                  const std::string& where, const std::filesystem::path& folder);

/// What model.rope may say, all but its type (rope_override.cpp).
struct RopeField {
  enum class Kind : std::uint8_t { number, integer, list, boolean };
  std::string_view name;
  Kind kind;
};
const std::vector<RopeField>& rope_fields();
const std::vector<std::string_view>& rope_types();
/// Sets it all from a mapping, or one name of it.
void assign_rope(std::optional<RopeOverride>& rope, const Key& key, const Value& value, const std::string& where);
void assign_rope_field(RopeOverride& rope, const Key& key, const std::string& name, const Value& value,
                       const std::string& where);
/// As YAML: "{type: yarn, factor: 4}".
std::string print_rope(const RopeOverride& rope);

/// What a data set of a key may say (data_sets.cpp). Each is a key of its own, of data.sources.front() of whatever
/// experiment it is given; `Key::choices` of the key of data sets names those that it has.
const std::vector<Key>& data_set_fields();
bool has_field(const Key& key, const Key& field);
/// Whether a data set's field says nothing.
bool is_unset(const DataSet& set, const Key& field);
/// Sets one data set of a key from its files, or from a mapping.
void assign_data_set(DataSet& set, const Key& key, const Value& value, const std::string& where,
                     const std::filesystem::path& folder);
/// Sets one field; throws Error for one that the key's data sets do not have.
void assign_field(DataSet& set, const Key& key, const std::string& field, const Value& value, const std::string& where,
                  const std::filesystem::path& folder);
/// Throws Error for a name that metrics and overrides cannot hold.
void check_data_set_name(const Key& key, const std::string& name, const std::string& where);
/// As YAML: "{files: [...], weight: 2.0}".
std::string print_data_set(const DataSet& set, const Key& key);

/// The value of a plain (unquoted) YAML scalar by YAML 1.2's core schema: `off` and `yes` are texts.
Value resolve_scalar(const std::string& text);

/// Throws Error for a name that is no key, naming the nearest one.
[[noreturn]] void refuse_key(const std::string& where, const std::string& section, const std::string& name);
[[noreturn]] void refuse_section(const std::string& where, const std::string& section);

/// One key's value as YAML text.
std::string print_value(const Experiment& experiment, const Key& key);

}  // namespace longhaul::config
