// The splitters of published patterns against the patterns themselves, and what patterns become for PCRE2.
#include "tokenizer/splitter.h"

#include <catch2/catch.hpp>

#include "tokenizer/regex.h"
#include "tokenizer/unicode.h"

namespace longhaul {
namespace {

std::vector<std::string> found(std::string_view pattern, RegexDialect dialect, std::string_view text) {
  std::vector<Regex::Match> matches;
  Regex(pattern, dialect).matches(text, matches);
  std::vector<std::string> pieces;
  for (const auto& match : matches) pieces.emplace_back(text.substr(match.begin, match.end - match.begin));
  return pieces;
}

using Pieces = std::vector<std::string>;

}  // namespace

TEST_CASE("splitters by hand cut as the regular expressions that they stand for", "[libraries]") {
  std::uint64_t state = 7;
  const auto random = [&](std::uint64_t below) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % below;
  };
  // Characters of all kinds that the patterns tell apart, and others from everywhere.
  static const char32_t marked[] = {
      ' ',    ' ',  ' ',   '\n',  '\r',   '\t',  '\'',  '\'',  's',  'S',     't',    'L',   'l',    'v',     'R',
      'e',    'D',  'm',   0x17f, 'a',    'B',   '1',   '2',   '7',  '.',     '/',    '!',   '_',    0xa0,    0x3000,
      0x2028, 0x85, 0x301, 0x5d0, 0x4e00, 0x1c5, 0x2b0, 0x660, 0xbd, 0x1f600, 0x20ac, 0x903, 0xfeff, 0x10ffff};
  const auto patterns = Splitter::known_patterns();
  REQUIRE(patterns.size() == 8);
  for (const auto& [pattern, dialect] : patterns) {
    const auto splitter = Splitter::of_pattern(pattern, dialect);
    REQUIRE(splitter);
    const Regex regex(pattern, dialect);
    std::vector<Regex::Match> matches;
    int pieces = 0;
    for (int i = 0; i < 4000; ++i) {
      std::string text;
      for (std::uint64_t left = random(24) + 1; left > 0; --left) {
        char32_t c = marked[random(std::size(marked))];
        if (random(8) == 0) c = static_cast<char32_t>(random(0x110000));
        if (c < 0xd800 || c >= 0xe000) append_utf8(text, c);
      }
      regex.matches(text, matches);
      std::size_t at = 0;
      bool same = true;
      splitter->split(text, [&](std::string_view piece) {
        same = same && at < matches.size() && text.data() + matches[at].begin == piece.data() &&
               matches[at].end - matches[at].begin == piece.size();
        ++at;
      });
      same = same && at == matches.size();
      pieces += static_cast<int>(at);
      INFO(pattern << "\n" << text);
      CHECK(same);
    }
    CHECK(pieces > 20000);
  }
  CHECK_FALSE(Splitter::of_pattern("\\p{L}+", RegexDialect::oniguruma));
}

TEST_CASE("patterns mean in PCRE2 what they mean to those who wrote them", "[libraries]") {
  const auto ruby = RegexDialect::oniguruma, rust = RegexDialect::rust;
  // {1,3}+ is possessive in one, repeats in the other.
  CHECK(found("\\d{1,3}+", ruby, "12345") == Pieces{"12345"});
  CHECK(found("\\d{1,3}+", rust, "12345") == Pieces{"123", "45"});
  // ^ and $ are about lines in one, about the text in the other.
  CHECK(found("^a", ruby, "a\na") == Pieces{"a", "a"});
  CHECK(found("^a", rust, "a\na") == Pieces{"a"});
  CHECK(found("a$", ruby, "a\na\n") == Pieces{"a", "a"});
  CHECK(found("a$", rust, "a\na\n") == Pieces{});
  CHECK(found("\\s", ruby, "\xe1\xa0\x8e \xc2\x85") == Pieces{" ", "\xc2\x85"});  // U+180E is no space
  CHECK(found("\\w+", ruby,
              "\xc2\xb2"
              "a\xcc\x81") == Pieces{"\xc2\xb2"
                                     "a\xcc\x81"});
  CHECK(found("\\w+", rust,
              "\xc2\xb2"
              "a\xcc\x81") == Pieces{"a\xcc\x81"});
  CHECK(found("\\p{Han}+", ruby, "\xe4\xbd\xa0\xe3\x80\x82") == Pieces{"\xe4\xbd\xa0"});  // not by script extensions
  CHECK(found("\\p{L}+", ruby, "\xe1\xb2\x89") == Pieces{"\xe1\xb2\x89"});                // U+1C89, of Unicode 16
  CHECK(found("[^\\p{L}]", ruby, "\xe1\xb2\x89") == Pieces{});
  CHECK(found("[a-e&&[^c]]+", ruby, "abcde") == Pieces{"ab", "de"});
  CHECK(found("[a[x-z]]+", ruby, "axbz") == Pieces{"ax", "z"});
  CHECK(found("(?i:'s)", ruby, "'S's'\xc5\xbf") == Pieces{"'S", "'s", "'\xc5\xbf"});
  CHECK(found("(a|b)+?", ruby, "ab") == Pieces{"a", "b"});
  CHECK(found("x{,2}y", ruby, "xxxy") == Pieces{"xxy"});
  CHECK(found("[\\]\\-x]+|\\.", ruby, "]-x.") == Pieces{"]-x", "."});
  CHECK(found("a*", ruby, "aab") == Pieces{"aa", ""});
  CHECK(found("\\u0061\\x62\\x{1F600}", ruby, "ab\xf0\x9f\x98\x80") == Pieces{"ab\xf0\x9f\x98\x80"});
  CHECK_THROWS_WITH(Regex("a**", ruby), Catch::Contains("quantifier"));
  CHECK_THROWS_WITH(Regex("(a", ruby), Catch::Contains("without its )"));
  CHECK_THROWS_WITH(Regex("a)", ruby), Catch::Contains("without its ("));
  CHECK_THROWS_WITH(Regex("\\1", ruby), Catch::Contains("\\1"));
  // A run of a million characters neither overflows a stack nor meets a limit.
  const std::string spaces(1'000'000, ' ');
  CHECK(found("\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", ruby, spaces + "x") == Pieces{spaces.substr(1), " "});
  CHECK(found("(?:a|b)*c", ruby, std::string(200'000, 'a') + "c").size() == 1);
}

}  // namespace longhaul
