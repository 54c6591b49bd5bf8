// The patterns of published tokenizers, by hand: several times as fast as a regular expression engine, and held equal
// to one by tests (tests/tokenizer/splitter_test.cpp). Three families, in which the known patterns are settings:
//
//   words_gpt2    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//   words_cl100k  contractions in any case; a word takes one character before it that is no letter, digit or line
//   break;
//                 digits in groups; punctuation takes line breaks behind it
//   words_o200k   as cl100k, words cut where lower case ends and upper case begins, contractions with their word
#pragma once
#include <optional>
#include <string_view>

#include "tokenizer/regex.h"

namespace longhaul {

class Splitter {
 public:
  enum class Family : std::uint8_t { gpt2, cl100k, o200k };

  /// The splitter of a pattern that is one of the published ones, letter by letter.
  static std::optional<Splitter> of_pattern(std::string_view pattern, RegexDialect dialect);
  static Splitter gpt2() { return Splitter({Family::gpt2}); }

  /// All patterns that of_pattern knows, each with the dialect to read it in.
  static std::vector<std::pair<std::string_view, RegexDialect>> known_patterns();

  /// Calls visit(std::string_view) for the pieces of valid UTF-8, which cover it.
  template <typename Visit>
  void split(std::string_view text, Visit&& visit) const {
    const char *at = text.data(), *end = at + text.size();
    while (at < end) {
      const char* next = rules_.family == Family::gpt2     ? piece_gpt2(at, end)
                         : rules_.family == Family::cl100k ? piece_cl100k(at, end)
                                                           : piece_o200k(at, end);
      visit(std::string_view(at, static_cast<std::size_t>(next - at)));
      at = next;
    }
  }

 private:
  struct Rules {
    Family family;
    int digits = 0;             // of a group of digits, at most
    bool contractions = false;  // o200k: behind words
    bool slash = false;         // punctuation takes / as well as line breaks behind it
    bool whole_tail = false;    // white space at the end of the text is one piece, line breaks or not
  };
  explicit Splitter(const Rules& rules) : rules_(rules) {}
  struct Known {
    std::string_view pattern;
    RegexDialect dialect;  // in which it means that: {1,3}+ is another thing elsewhere
    bool any_dialect;
    Rules rules;
  };
  static const std::vector<Known>& known();
  const char* piece_gpt2(const char* at, const char* end) const;
  const char* piece_cl100k(const char* at, const char* end) const;
  const char* piece_o200k(const char* at, const char* end) const;
  const char* spaces(const char* at, const char* end) const;
  const char* punctuation(const char* at, const char* end) const;
  const char* digits(const char* at, const char* end) const;

  Rules rules_;
};

}  // namespace longhaul
