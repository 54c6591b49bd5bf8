#include "tokenizer/pattern.h"

#include "tokenizer/json_fields.h"
#include "tokenizer/regex.h"
#include "tokenizer/splitter.h"

namespace longhaul {
namespace {

class RegexPattern : public Pattern {
 public:
  explicit RegexPattern(std::string_view pattern) : regex_(pattern, RegexDialect::oniguruma) {}
  void split(std::string_view text, std::vector<Part>& parts) const override {
    std::vector<Regex::Match> matches;
    regex_.matches(text, matches);
    std::size_t end = 0;
    for (const auto& match : matches) {
      if (match.begin > end) parts.push_back({text.substr(end, match.begin - end), false});
      parts.push_back({text.substr(match.begin, match.end - match.begin), true});
      end = match.end;
    }
    if (end < text.size()) parts.push_back({text.substr(end), false});
  }

 private:
  Regex regex_;
};

/// A published pattern that is known, and covers every text.
class KnownPattern : public Pattern {
 public:
  explicit KnownPattern(Splitter splitter) : splitter_(splitter) {}
  void split(std::string_view text, std::vector<Part>& parts) const override {
    splitter_.split(text, [&](std::string_view piece) { parts.push_back({piece, true}); });
  }

 private:
  Splitter splitter_;
};

class LiteralPattern : public Pattern {
 public:
  explicit LiteralPattern(std::string literal) : literal_(std::move(literal)) {}
  void split(std::string_view text, std::vector<Part>& parts) const override {
    for (;;) {
      const std::size_t found = text.find(literal_);
      if (found == std::string_view::npos) break;
      if (found > 0) parts.push_back({text.substr(0, found), false});
      parts.push_back({text.substr(found, literal_.size()), true});
      text.remove_prefix(found + literal_.size());
    }
    if (!text.empty()) parts.push_back({text, false});
  }

 private:
  std::string literal_;
};

class CharacterPattern : public Pattern {
 public:
  explicit CharacterPattern(bool (*holds)(char32_t)) : holds_(holds) {}
  void split(std::string_view text, std::vector<Part>& parts) const override {
    const char *from = text.data(), *at = from, *end = from + text.size();
    while (at < end) {
      const char* begin = at;
      if (!holds_(next_code_point(at))) continue;
      if (from < begin) parts.push_back({{from, static_cast<std::size_t>(begin - from)}, false});
      parts.push_back({{begin, static_cast<std::size_t>(at - begin)}, true});
      from = at;
    }
    if (from < end) parts.push_back({{from, static_cast<std::size_t>(end - from)}, false});
  }

 private:
  bool (*holds_)(char32_t);
};

}  // namespace

std::unique_ptr<Pattern> regex_pattern(std::string_view pattern) {
  if (const auto known = Splitter::of_pattern(pattern, RegexDialect::oniguruma))
    return std::make_unique<KnownPattern>(*known);
  return std::make_unique<RegexPattern>(pattern);
}
std::unique_ptr<Pattern> literal_pattern(std::string literal) {
  return std::make_unique<LiteralPattern>(std::move(literal));
}
std::unique_ptr<Pattern> character_pattern(bool (*holds)(char32_t)) {
  return std::make_unique<CharacterPattern>(holds);
}

std::unique_ptr<Pattern> read_pattern(const nlohmann::json& object, const std::string& where) {
  using namespace json_fields;
  if (object.is_object() && object.size() == 1) {
    if (object.contains("Regex")) return regex_pattern(text(object, "Regex", where));
    if (object.contains("String")) {
      const std::string literal = text(object, "String", where);
      if (literal.empty()) fail("{}: the pattern is an empty string", where);
      return literal_pattern(literal);
    }
  }
  fail("{}: a pattern must be {{\"Regex\": ...}} or {{\"String\": ...}}", where);
}

}  // namespace longhaul
