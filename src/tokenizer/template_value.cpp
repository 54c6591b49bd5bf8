#include "tokenizer/template_value.h"

#include <algorithm>

#include "base/error.h"

namespace longhaul::chat {
namespace {

// str.isspace() of Python: the ASCII separators FS to US too.
bool python_space(std::string_view character) {
  if (character.size() == 1) {
    const char c = character[0];
    return c == ' ' || (c >= '\t' && c <= '\r') || (c >= '\x1c' && c <= '\x1f');
  }
  static constexpr std::string_view spaces[] = {"\u0085", "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003",
                                                "\u2004", "\u2005", "\u2006", "\u2007", "\u2008", "\u2009", "\u200a",
                                                "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"};
  return std::find(std::begin(spaces), std::end(spaces), character) != std::end(spaces);
}

std::string changed_case(std::string_view text, bool upper, std::string_view name) {
  std::string result(text);
  for (char& c : result) {
    if (static_cast<unsigned char>(c) >= 0x80) fail("{} is supported for ASCII only", name);
    if (upper && c >= 'a' && c <= 'z') c = static_cast<char>(c - 32);
    if (!upper && c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
  }
  return result;
}

std::string replaced(const std::string& text, const std::string& from, const std::string& to) {
  if (from.empty()) fail("replace of an empty string is not supported");
  std::string result;
  std::size_t at = 0;
  for (std::size_t next; (next = text.find(from, at)) != std::string::npos; at = next + from.size())
    result += text.substr(at, next - at) + to;
  return result + text.substr(at);
}

const std::string& string_of(const std::vector<Value>& arguments, std::size_t i, std::string_view name) {
  if (i >= arguments.size() || !arguments[i].string()) fail("{} wants a string as argument {}", name, i + 1);
  return *arguments[i].string();
}

List items_of(const Value& value, std::string_view name) {
  if (const auto* list = value.list()) return *list;
  List items;
  if (const auto* dict = value.dict()) {
    for (const auto& [key, one] : *dict) items.emplace_back(key);
  } else if (const auto* text = value.string()) {
    for (auto& one : characters(*text)) items.emplace_back(std::move(one));
  } else if (!value.undefined()) {
    fail("{} wants a list; it got {}", name, value.kind());
  }
  return items;
}

List pairs_of(const Value& value) {
  const auto* dict = value.dict();
  if (!dict) fail("items wants a dictionary; it got {}", value.kind());
  List pairs;
  for (const auto& [key, one] : *dict) pairs.emplace_back(List{Value(key), one});
  return pairs;
}

// selectattr, rejectattr: with an attribute, and perhaps a test of it with its arguments.
List selected(const Value& value, bool keep, const std::vector<Value>& arguments, std::string_view name) {
  List result;
  const std::string& attribute = string_of(arguments, 0, name);
  for (const Value& one : items_of(value, name)) {
    const Value* found = one.dict() ? find(*one.dict(), attribute) : nullptr;
    const Value held = found ? *found : Value();
    const bool passes = arguments.size() < 2 ? held.truth()
                                             : apply_test(held, string_of(arguments, 1, name),
                                                          std::vector<Value>(arguments.begin() + 2, arguments.end()));
    if (passes == keep) result.push_back(one);
  }
  return result;
}

}  // namespace

bool Value::as_integer(std::int64_t& number) const {
  if (const auto* held = integer())
    number = *held;
  else if (const auto* truth_value = boolean())
    number = *truth_value ? 1 : 0;
  else
    return false;
  return true;
}

bool Value::truth() const {
  if (undefined() || none()) return false;
  if (const auto* held = boolean()) return *held;
  if (const auto* held = integer()) return *held != 0;
  if (const auto* held = real()) return *held != 0;
  if (const auto* held = string()) return !held->empty();
  if (const auto* held = list()) return !held->empty();
  if (const auto* held = dict()) return !held->empty();
  return true;
}

std::string Value::text() const {
  if (undefined()) return "";
  if (none()) return "None";
  if (const auto* held = boolean()) return *held ? "True" : "False";
  if (const auto* held = integer()) return fmt::format("{}", *held);
  if (const auto* held = string()) return *held;
  fail("{} cannot be written into the text", kind());
}

std::string_view Value::kind() const {
  if (undefined()) return "undefined";
  if (none()) return "none";
  if (boolean()) return "a boolean";
  if (integer() || real()) return "a number";
  if (string()) return "a string";
  if (list()) return "a list";
  if (dict()) return "a dictionary";
  return "a macro";
}

bool equal(const Value& a, const Value& b) {
  std::int64_t x = 0, y = 0;
  const bool whole_a = a.as_integer(x), whole_b = b.as_integer(y);
  if (whole_a && whole_b) return x == y;
  if ((a.real() || whole_a) && (b.real() || whole_b))
    return (a.real() ? *a.real() : static_cast<double>(x)) == (b.real() ? *b.real() : static_cast<double>(y));
  if (a.string() && b.string()) return *a.string() == *b.string();
  if (a.none() && b.none()) return true;
  if (a.undefined() && b.undefined()) return true;
  if (a.list() && b.list())
    return std::equal(a.list()->begin(), a.list()->end(), b.list()->begin(), b.list()->end(), equal);
  if (a.dict() && b.dict()) {
    if (a.dict()->size() != b.dict()->size()) return false;
    return std::all_of(a.dict()->begin(), a.dict()->end(), [&](const auto& entry) {
      const Value* other = find(*b.dict(), entry.first);
      return other && equal(entry.second, *other);
    });
  }
  return false;
}

Value* find(const Dict& dict, std::string_view key) {
  for (const auto& [name, value] : dict)
    if (name == key) return const_cast<Value*>(&value);
  return nullptr;
}

std::vector<std::string> characters(std::string_view text) {
  std::vector<std::string> result;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t end = at + 1;
    while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) ++end;
    result.emplace_back(text.substr(at, end - at));
    at = end;
  }
  return result;
}

std::string strip(std::string_view text, bool left, bool right, std::string_view what) {
  const auto goes = [&](std::string_view character) {
    return what.empty() ? python_space(character) : what.find(character) != std::string_view::npos;
  };
  while (left && !text.empty()) {
    std::size_t end = 1;
    while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) ++end;
    if (!goes(text.substr(0, end))) break;
    text.remove_prefix(end);
  }
  while (right && !text.empty()) {
    std::size_t begin = text.size() - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xc0) == 0x80) --begin;
    if (!goes(text.substr(begin))) break;
    text = text.substr(0, begin);
  }
  return std::string(text);
}

bool string_method(const std::string& text, std::string_view name, const std::vector<Value>& arguments, Value& result) {
  const auto optional = [&](std::size_t i) {
    return arguments.size() <= i || arguments[i].none() ? std::string() : string_of(arguments, i, name);
  };
  const auto any_of = [&](auto test) {
    if (arguments.size() == 1 && arguments[0].list())
      return std::any_of(arguments[0].list()->begin(), arguments[0].list()->end(),
                         [&](const Value& one) { return one.string() && test(*one.string()); });
    return test(string_of(arguments, 0, name));
  };
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    const std::string what = optional(0);
    for (const char c : what)
      if (static_cast<unsigned char>(c) >= 0x80) fail("{} of characters beyond ASCII is not supported", name);
    result = strip(text, name != "rstrip", name != "lstrip", what);
  } else if (name == "startswith") {
    result = any_of([&](const std::string& one) { return text.starts_with(one); });
  } else if (name == "endswith") {
    result = any_of([&](const std::string& one) { return text.ends_with(one); });
  } else if (name == "replace") {
    if (arguments.size() != 2) fail("replace with a count is not supported");
    result = replaced(text, string_of(arguments, 0, name), string_of(arguments, 1, name));
  } else if (name == "upper" || name == "lower") {
    result = changed_case(text, name == "upper", name);
  } else if (name == "split") {
    List parts;
    if (arguments.size() > 1) fail("split with a limit is not supported");
    const std::string separator = optional(0);
    if (separator.empty()) {
      std::string word;
      for (const auto& one : characters(text)) {
        if (!python_space(one)) {
          word += one;
        } else if (!word.empty()) {
          parts.emplace_back(std::move(word));
          word.clear();
        }
      }
      if (!word.empty()) parts.emplace_back(std::move(word));
    } else {
      std::size_t at = 0;
      for (std::size_t next; (next = text.find(separator, at)) != std::string::npos; at = next + separator.size())
        parts.emplace_back(text.substr(at, next - at));
      parts.emplace_back(text.substr(at));
    }
    result = std::move(parts);
  } else {
    return false;
  }
  return true;
}

Value apply_filter(const Value& value, std::string_view name, const std::vector<Value>& arguments, const Dict& named) {
  const auto text = [&]() -> std::string {
    if (value.undefined()) return "";
    if (!value.string()) fail("the filter {} wants a string; it got {}", name, value.kind());
    return *value.string();
  };
  if (!named.empty() && name != "default" && name != "d")
    fail("the filter {} has the argument {}, which is not supported", name, named[0].first);
  if (name == "trim") {
    const std::string what = arguments.empty() ? std::string() : string_of(arguments, 0, name);
    return strip(value.string() ? *value.string() : value.text(), true, true, what);
  }
  if (name == "length" || name == "count") {
    if (value.dict()) return static_cast<std::int64_t>(value.dict()->size());
    return static_cast<std::int64_t>(items_of(value, name).size());
  }
  if (name == "upper" || name == "lower") return changed_case(text(), name == "upper", name);
  if (name == "capitalize") {
    std::string changed = changed_case(text(), false, name);
    if (!changed.empty()) changed[0] = changed_case(changed.substr(0, 1), true, name)[0];
    return changed;
  }
  if (name == "replace") return replaced(text(), string_of(arguments, 0, name), string_of(arguments, 1, name));
  if (name == "string") return value.text();
  if (name == "safe") return value;
  if (name == "list") return items_of(value, name);
  if (name == "items") return pairs_of(value);
  if (name == "first" || name == "last") {
    const List items = items_of(value, name);
    if (items.empty()) return {};
    return name == "first" ? items.front() : items.back();
  }
  if (name == "join") {
    const std::string between = arguments.empty() ? std::string() : string_of(arguments, 0, name);
    std::string joined;
    bool begun = false;
    for (const Value& one : items_of(value, name)) {
      if (begun) joined += between;
      joined += one.text();
      begun = true;
    }
    return joined;
  }
  if (name == "default" || name == "d") {
    bool of_false = arguments.size() > 1 && arguments[1].truth();
    if (const Value* boolean = find(named, "boolean")) of_false = boolean->truth();
    if (value.undefined() || (of_false && !value.truth())) return arguments.empty() ? Value("") : arguments[0];
    return value;
  }
  if (name == "selectattr" || name == "rejectattr") return selected(value, name == "selectattr", arguments, name);
  fail("the filter {} is not supported", name);
}

bool apply_test(const Value& value, std::string_view name, const std::vector<Value>& arguments) {
  const auto argument = [&]() -> const Value& {
    if (arguments.empty()) fail("the test {} wants an argument", name);
    return arguments[0];
  };
  if (name == "defined") return !value.undefined();
  if (name == "undefined") return value.undefined();
  if (name == "none") return value.none();
  if (name == "string") return value.string() != nullptr;
  if (name == "mapping") return value.dict() != nullptr;
  if (name == "boolean") return value.boolean() != nullptr;
  if (name == "integer") return value.integer() != nullptr;
  if (name == "number") return value.integer() || value.real() || value.boolean();
  if (name == "true") return value.boolean() && *value.boolean();
  if (name == "false") return value.boolean() && !*value.boolean();
  if (name == "iterable" || name == "sequence")
    return value.string() || value.list() || value.dict() || value.undefined();
  if (name == "equalto" || name == "eq" || name == "==") return equal(value, argument());
  if (name == "ne" || name == "!=") return !equal(value, argument());
  if (name == "in") {
    const List items = items_of(argument(), name);
    return std::any_of(items.begin(), items.end(), [&](const Value& one) { return equal(value, one); });
  }
  std::int64_t number = 0, divisor = 2;
  if (name == "odd" || name == "even" || name == "divisibleby") {
    if (name == "divisibleby" && (!argument().as_integer(divisor) || divisor == 0)) fail("divisibleby wants a number");
    if (!value.as_integer(number)) fail("the test {} wants a number; it got {}", name, value.kind());
    return (number % divisor == 0) == (name != "odd");
  }
  fail("the test {} is not supported", name);
}

}  // namespace longhaul::chat
