#include "kernels/bench/problem.h"

#include <algorithm>
#include <exception>
#include <fstream>
#include <sstream>

#include "base/error.h"

namespace longhaul::bench {
namespace {

struct Entry {
  std::string key;
  std::vector<std::string> values;
};

std::string full_name(const std::string& value) {
  if (value == "bf16") return "bfloat16";
  if (value == "fp32") return "float32";
  if (value == "fp64") return "float64";
  return value;
}

// "s=2048,8192 d=64" -> s: 2048, 8192; d: 64. A word without = is one more value of the key before it.
std::vector<Entry> parse(const std::string& text) {
  std::string blanks = text;
  std::replace(blanks.begin(), blanks.end(), ',', ' ');
  std::vector<Entry> entries;
  std::istringstream in(blanks);
  for (std::string word; in >> word;) {
    const std::size_t equals = word.find('=');
    if (equals == 0 || equals + 1 == word.size() || (equals == std::string::npos && entries.empty()))
      fail("'{}' is not key=value; a shape is like \"s=8192 h=16 d=64,128\"", word);
    if (equals == std::string::npos) {
      entries.back().values.push_back(full_name(word));
      continue;
    }
    const std::string key = word.substr(0, equals);
    for (const Entry& entry : entries)
      if (entry.key == key) fail("{} is given twice in '{}'", key, text);
    entries.push_back({key, {full_name(word.substr(equals + 1))}});
  }
  return entries;
}

}  // namespace

std::vector<Shape> expand(const std::string& text) {
  std::vector<Shape> shapes(1);
  for (const Entry& entry : parse(text)) {
    std::vector<Shape> longer;
    for (const Shape& shape : shapes)
      for (const std::string& value : entry.values) {
        longer.push_back(shape);
        longer.back().entries_.emplace_back(entry.key, value);
      }
    shapes = std::move(longer);
  }
  return shapes;
}

Shape::Shape(const std::string& text) {
  const std::vector<Shape> all = expand(text);
  if (all.size() != 1) fail("'{}' is a list of shapes where one is needed", text);
  *this = all.front();
}

bool Shape::has(const std::string& key) const {
  return std::any_of(entries_.begin(), entries_.end(), [&](const auto& entry) { return entry.first == key; });
}

std::string Shape::word(const std::string& key) const {
  for (const auto& [name, value] : entries_)
    if (name == key) return value;
  fail("{} is missing in the shape {}", key, text());
}

std::int64_t Shape::number(const std::string& key) const {
  const std::string value = word(key);
  std::size_t used = 0;
  std::int64_t result = -1;
  try {
    result = std::stoll(value, &used);
  } catch (const std::exception&) {
  }
  if (used != value.size() || result < 0) fail("{}={} is not a size", key, value);
  return result;
}

Shape Shape::with(const Shape& over) const {
  Shape result = *this;
  for (const auto& [name, value] : over.entries_) {
    auto found = std::find_if(result.entries_.begin(), result.entries_.end(),
                              [&, key = name](const auto& entry) { return entry.first == key; });
    if (found == result.entries_.end()) fail("this op has no {}; its keys and their defaults are {}", name, text());
    found->second = value;
  }
  return result;
}

std::string Shape::text() const {
  std::string result;
  for (const auto& [name, value] : entries_) result += (result.empty() ? "" : " ") + name + "=" + value;
  return result;
}

std::vector<Problem> read_problems(const std::string& file) {
  std::ifstream in(file);
  if (!in) fail("cannot read the problem file {}", file);
  std::vector<Problem> problems;
  int number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    std::istringstream words(line.substr(0, line.find('#')));
    std::string op, rest;
    if (!(words >> op)) continue;
    std::getline(words, rest);
    const std::string where = fmt::format("{}:{}", file, number);
    if (op.find('=') != std::string::npos) fail("{}: a problem begins with the name of an op, not '{}'", where, op);
    try {
      for (Shape& shape : expand(rest)) problems.push_back({op, std::move(shape), where});
    } catch (const Error& error) {
      fail("{}: {}", where, error.what());
    }
  }
  if (problems.empty()) fail("{} holds no problem", file);
  return problems;
}

}  // namespace longhaul::bench
