// Fields of tokenizer files, with messages that say where. Private to src/tokenizer.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/error.h"

namespace longhaul::json_fields {

using nlohmann::json;

/// The member, or null when it is missing.
inline const json& member(const json& object, const char* name) {
  static const json null;
  const auto found = object.find(name);
  return found == object.end() ? null : *found;
}

inline std::string text(const json& object, const char* name, const std::string& where) {
  const json& value = member(object, name);
  if (!value.is_string()) fail("{}: \"{}\" is not a string", where, name);
  return value.get<std::string>();
}

/// False when it is missing or null, unless told otherwise.
inline bool flag(const json& object, const char* name, const std::string& where, bool missing = false) {
  const json& value = member(object, name);
  if (value.is_null()) return missing;
  if (!value.is_boolean()) fail("{}: \"{}\" is neither true nor false", where, name);
  return value.get<bool>();
}

inline std::int64_t number(const json& object, const char* name, const std::string& where) {
  const json& value = member(object, name);
  if (!value.is_number_integer()) fail("{}: \"{}\" is not a whole number", where, name);
  return value.get<std::int64_t>();
}

inline const json& list(const json& object, const char* name, const std::string& where) {
  const json& value = member(object, name);
  if (!value.is_array()) fail("{}: \"{}\" is not a list", where, name);
  return value;
}

inline std::string type(const json& object, const std::string& where) {
  if (!object.is_object()) fail("{} is not an object", where);
  return text(object, "type", where);
}

}  // namespace longhaul::json_fields
