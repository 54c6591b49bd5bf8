// The JSON Schema and the reference tables of the spec, by the one list of fields in spec_fields.h.
#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "model/spec_fields.h"

namespace longhaul {
namespace {

using nlohmann::ordered_json;
using spec_fields::Range;

constexpr double infinity = std::numeric_limits<double>::infinity();

ordered_json number_json(double value) {
  if (value == std::floor(value)) return static_cast<std::int64_t>(value);
  return value;
}

class SchemaBuilder {
 public:
  ordered_json schema = {{"type", "object"},
                         {"additionalProperties", false},
                         {"required", ordered_json::array()},
                         {"properties", ordered_json::object()}};

  bool shows_all() const { return false; }
  void integer(const char* name, std::int64_t&, std::optional<std::int64_t> fallback, Range range,
               const char* meaning) {
    ordered_json& field = add(name, meaning, !fallback);
    field["type"] = "integer";
    add_range(field, range);
    if (fallback && *fallback != spec_fields::computed_integer) field["default"] = *fallback;
  }
  void number(const char* name, double&, std::optional<double> fallback, Range range, const char* meaning) {
    ordered_json& field = add(name, meaning, !fallback);
    field["type"] = "number";
    add_range(field, range);
    if (fallback && *fallback != spec_fields::computed_number) field["default"] = number_json(*fallback);
  }
  void boolean(const char* name, bool&, std::optional<bool> fallback, const char* meaning) {
    ordered_json& field = add(name, meaning, !fallback);
    field["type"] = "boolean";
    if (fallback) field["default"] = *fallback;
  }
  template <typename Enum, std::size_t count>
  void choice(const char* name, Enum& value, const std::string_view (&names)[count], std::optional<Enum> fallback,
              const char* meaning) {
    ordered_json& field = add(name, meaning, !fallback);
    if (rope_variant_) {
      field["const"] = names[static_cast<std::size_t>(value)];
      return;
    }
    field["enum"] = ordered_json::array();
    for (std::string_view allowed : names) field["enum"].push_back(allowed);
    if (fallback) field["default"] = names[static_cast<std::size_t>(*fallback)];
  }
  void constant(const char* name, const char* text, const char* meaning) { add(name, meaning, true)["const"] = text; }
  template <typename T>
  void object(const char* name, T& value, const char* meaning) {
    SchemaBuilder inner;
    spec_fields::describe(inner, value);
    add(name, meaning, true).update(inner.schema);
  }
  void optional_object(const char* name, RopeSpec&, const char* meaning) {
    ordered_json& field = add(name, meaning, false);
    field["default"] = nullptr;
    field["anyOf"] = ordered_json::array({{{"type", "null"}}});
    for (RopeKind kind :
         {RopeKind::plain, RopeKind::linear, RopeKind::llama3, RopeKind::yarn, RopeKind::dynamic, RopeKind::longrope}) {
      SchemaBuilder inner;
      inner.rope_variant_ = true;
      RopeSpec rope;
      rope.kind = kind;
      spec_fields::describe(inner, rope);
      field["anyOf"].push_back(inner.schema);
    }
  }
  void numbers(const char* name, std::vector<double>&, Range range, const char* meaning) {
    ordered_json& field = add(name, meaning, true);
    field["type"] = "array";
    field["minItems"] = 1;
    field["items"]["type"] = "number";
    add_range(field["items"], range);
  }
  template <typename T>
  void list(const char* name, std::vector<T>&, const char* meaning) {
    SchemaBuilder inner;
    T element;
    spec_fields::describe(inner, element);
    ordered_json& field = add(name, meaning, true);
    field["type"] = "array";
    field["minItems"] = 1;
    field["items"] = inner.schema;
  }

 private:
  ordered_json& add(const char* name, const char* meaning, bool required) {
    if (required) schema["required"].push_back(name);
    ordered_json& field = schema["properties"][name];
    field["description"] = meaning;
    return field;
  }
  static void add_range(ordered_json& field, const Range& range) {
    if (range.minimum > -infinity)
      field[range.above_minimum ? "exclusiveMinimum" : "minimum"] = number_json(range.minimum);
    if (range.maximum < infinity) field["maximum"] = number_json(range.maximum);
  }

  bool rope_variant_ = false;
};

/// Markdown: one table per object, nested objects after the one that holds them.
class ReferenceBuilder {
 public:
  explicit ReferenceBuilder(std::string path) : path_(std::move(path)) {}
  std::string text() const {
    return "| field | value | default | meaning |\n| --- | --- | --- | --- |\n" + rows_ + "\n" + nested_;
  }

  bool shows_all() const { return true; }
  void integer(const char* name, std::int64_t&, std::optional<std::int64_t> fallback, Range, const char* meaning) {
    row(name, "integer",
        !fallback                                    ? "required"
        : *fallback == spec_fields::computed_integer ? "computed"
                                                     : fmt::format("`{}`", *fallback),
        meaning);
  }
  void number(const char* name, double&, std::optional<double> fallback, Range, const char* meaning) {
    row(name, "number",
        !fallback                                   ? "required"
        : *fallback == spec_fields::computed_number ? "computed"
                                                    : fmt::format("`{}`", *fallback),
        meaning);
  }
  void boolean(const char* name, bool&, std::optional<bool> fallback, const char* meaning) {
    row(name, "true, false", fallback ? (*fallback ? "`true`" : "`false`") : "required", meaning);
  }
  template <typename Enum, std::size_t count>
  void choice(const char* name, Enum&, const std::string_view (&names)[count], std::optional<Enum> fallback,
              const char* meaning) {
    std::string allowed;
    for (std::string_view text : names)
      if (text != "none") allowed += fmt::format("{}`\"{}\"`", allowed.empty() ? "" : ", ", text);
    row(name, allowed,
        fallback ? fmt::format("`\"{}\"`", names[static_cast<std::size_t>(*fallback)]) : std::string("required"),
        meaning);
  }
  void constant(const char* name, const char* text, const char* meaning) {
    row(name, fmt::format("`\"{}\"`", text), "required", meaning);
  }
  template <typename T>
  void object(const char* name, T& value, const char* meaning) {
    row(name, "object", "required", meaning);
    nest(name, value);
  }
  void optional_object(const char* name, RopeSpec& value, const char* meaning) {
    row(name, "object or null", "`null`", meaning);
    nest(name, value);
  }
  void numbers(const char* name, std::vector<double>&, Range, const char* meaning) {
    row(name, "list of numbers", "required", meaning);
  }
  template <typename T>
  void list(const char* name, std::vector<T>&, const char* meaning) {
    row(name, "list of objects", "required", meaning);
    T element;
    nest((std::string(name) + "[]").c_str(), element);
  }

 private:
  void row(const char* name, const std::string& value, const std::string& fallback, const char* meaning) {
    rows_ += fmt::format("| `{}{}` | {} | {} | {} |\n", path_, name, value, fallback, meaning);
  }
  template <typename T>
  void nest(const char* name, T& value) {
    ReferenceBuilder inner(path_ + name + ".");
    spec_fields::describe(inner, value);
    nested_ += fmt::format("### `{}{}`\n\n{}", path_, name, inner.text());
  }

  std::string path_, rows_, nested_;
};

}  // namespace

std::string spec_schema() {
  TransformerSpec spec;
  SchemaBuilder builder;
  spec_fields::describe(builder, spec);
  ordered_json schema = {{"$schema", "http://json-schema.org/draft-07/schema#"},
                         {"title", "Longhaul transformer spec"}};
  schema.update(builder.schema);
  schema["properties"]["$schema"] = {{"type", "string"}};
  return schema.dump(2) + "\n";
}

std::string spec_reference() {
  TransformerSpec spec;
  ReferenceBuilder builder("");
  spec_fields::describe(builder, spec);
  return builder.text();
}

}  // namespace longhaul
