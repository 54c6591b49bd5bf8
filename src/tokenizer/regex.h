// Regular expressions of tokenizer files, run by PCRE2 (JIT) with the meaning of the engine that they were written for.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/unicode.h"

namespace longhaul {

/// Whose syntax a pattern is in, where they differ (the classes \w, \h, anchors, {n,m}+).
enum class RegexDialect : std::uint8_t {
  oniguruma,  // tokenizer.json
  rust,       // tiktoken: fancy-regex
};

/// The pattern in PCRE2's syntax, for UTF + UCP: classes are spelled out where PCRE2's Unicode tables are older than
/// ours or its meaning is another. Throws Error naming what of the pattern is not supported.
std::string translate_regex(std::string_view pattern, RegexDialect dialect);

/// The code points of PCRE2's own \p{name}; nothing where this program was built without it.
CodePointRanges library_property(std::string_view name);

/// A compiled pattern. Const members may be called from several threads.
class Regex {
 public:
  /// Throws Error: what translate_regex refuses, what PCRE2 says, or that the program was built without PCRE2.
  Regex(std::string_view pattern, RegexDialect dialect);
  ~Regex();
  Regex(const Regex&) = delete;
  Regex& operator=(const Regex&) = delete;

  struct Match {
    std::size_t begin, end;
  };
  /// All matches in valid UTF-8, left to right, not overlapping; an empty match right behind another does not count.
  /// Throws Error when PCRE2 runs out of its limits.
  void matches(std::string_view text, std::vector<Match>& out) const;

 private:
  struct Code;
  std::unique_ptr<Code> code_;
  std::string pattern_;
};

}  // namespace longhaul
