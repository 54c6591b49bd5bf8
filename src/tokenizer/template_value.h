// Values of chat templates, as Python has them. Private to src/tokenizer.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace longhaul::chat {

struct Undefined {};
struct None {};
class Value;
using List = std::vector<Value>;
/// A dictionary, in the order in which its keys came; namespaces are dictionaries too.
using Dict = std::vector<std::pair<std::string, Value>>;
struct Macro;  // of the parsed template

class Value {
 public:
  Value() = default;  // undefined
  Value(None) : value_(None{}) {}
  Value(bool value) : value_(value) {}
  Value(std::int64_t value) : value_(value) {}
  Value(double value) : value_(value) {}
  Value(std::string value) : value_(std::move(value)) {}
  Value(const char* value) : value_(std::string(value)) {}
  Value(List value) : value_(std::make_shared<List>(std::move(value))) {}
  Value(Dict value) : value_(std::make_shared<Dict>(std::move(value))) {}
  Value(const Macro* value) : value_(value) {}

  bool undefined() const { return std::holds_alternative<Undefined>(value_); }
  bool none() const { return std::holds_alternative<None>(value_); }
  const bool* boolean() const { return std::get_if<bool>(&value_); }
  const std::int64_t* integer() const { return std::get_if<std::int64_t>(&value_); }
  const double* real() const { return std::get_if<double>(&value_); }
  const std::string* string() const { return std::get_if<std::string>(&value_); }
  /// Null when it is none; shared by all copies of the value.
  List* list() const {
    const auto* held = std::get_if<std::shared_ptr<List>>(&value_);
    return held ? held->get() : nullptr;
  }
  Dict* dict() const {
    const auto* held = std::get_if<std::shared_ptr<Dict>>(&value_);
    return held ? held->get() : nullptr;
  }
  const Macro* macro() const {
    const auto* held = std::get_if<const Macro*>(&value_);
    return held ? *held : nullptr;
  }
  /// A whole number as Python counts with it: True is 1. False when it is no such.
  bool as_integer(std::int64_t& number) const;

  /// Whether an `if` takes it.
  bool truth() const;
  /// What stands in the output. Throws Error for what has no plain text (lists, dictionaries, fractions).
  std::string text() const;
  /// "a string", "undefined", for messages.
  std::string_view kind() const;

 private:
  std::variant<Undefined, None, bool, std::int64_t, double, std::string, std::shared_ptr<List>, std::shared_ptr<Dict>,
               const Macro*>
      value_;
};

bool equal(const Value& a, const Value& b);
/// The value of a key; null when there is none.
Value* find(const Dict& dict, std::string_view key);

/// A method of strings (strip, split, startswith, ...). False when there is none of that name. Throws Error for wrong
/// arguments.
bool string_method(const std::string& text, std::string_view name, const std::vector<Value>& arguments, Value& result);
/// A filter (trim, length, join, ...); arguments by name are in `named`. Throws Error for one that is not known.
Value apply_filter(const Value& value, std::string_view name, const std::vector<Value>& arguments, const Dict& named);
/// A test (defined, string, ...). Throws Error for one that is not known.
bool apply_test(const Value& value, std::string_view name, const std::vector<Value>& arguments);
/// Python's white space taken from one or both ends, or the characters of `what` (ASCII) where it is not empty.
std::string strip(std::string_view text, bool left, bool right, std::string_view what = {});
/// The code points of a string, one string each.
std::vector<std::string> characters(std::string_view text);

}  // namespace longhaul::chat
