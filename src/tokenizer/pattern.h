// What text is split by: a regular expression, a literal string or a class of characters.
#pragma once
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/unicode.h"

namespace longhaul {

class Pattern {
 public:
  virtual ~Pattern() = default;
  struct Part {
    std::string_view text;
    bool match;
  };
  /// Cuts valid UTF-8 into what matches and what lies between, in order and without holes. Parts may be empty where the
  /// pattern matches nothing. Const and thread-safe.
  virtual void split(std::string_view text, std::vector<Part>& parts) const = 0;
};

std::unique_ptr<Pattern> regex_pattern(std::string_view pattern);
std::unique_ptr<Pattern> literal_pattern(std::string literal);
/// Single characters for which `holds`.
std::unique_ptr<Pattern> character_pattern(bool (*holds)(char32_t c));

/// {"Regex": ...} or {"String": ...} of a tokenizer.json; `where` begins messages. Throws Error.
std::unique_ptr<Pattern> read_pattern(const nlohmann::json& object, const std::string& where);

}  // namespace longhaul
