// What tokenizers ask of a code point, and UTF-8. Unicode 16, as the tokenizers and tiktoken packages have it; the
// table is made from their answers (unicode_table.cpp), so that it does not depend on the version of a system's
// library.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace longhaul {

/// General categories, in the order of the generated table.
enum class Category : std::uint8_t {
  Cn,
  Lu,
  Ll,
  Lt,
  Lm,
  Lo,
  Mn,
  Mc,
  Me,
  Nd,
  Nl,
  No,
  Pc,
  Pd,
  Ps,
  Pe,
  Pi,
  Pf,
  Po,
  Sm,
  Sc,
  Sk,
  So,
  Zs,
  Zl,
  Zp,
  Cc,
  Cf,
  Co,
};

/// What holds of a code point, as bits: the table of `code_point_bits`.
namespace code_point {
inline constexpr std::uint32_t category(Category one) {
  return 1u << static_cast<int>(one);
}
inline constexpr std::uint32_t upper = category(Category::Lu) | category(Category::Lt);
inline constexpr std::uint32_t letter =
    upper | category(Category::Ll) | category(Category::Lm) | category(Category::Lo);
inline constexpr std::uint32_t mark = category(Category::Mn) | category(Category::Mc) | category(Category::Me);
inline constexpr std::uint32_t number = category(Category::Nd) | category(Category::Nl) | category(Category::No);
inline constexpr std::uint32_t punctuation = 0x7fu << static_cast<int>(Category::Pc);
inline constexpr std::uint32_t symbol = 0xfu << static_cast<int>(Category::Sm);
inline constexpr std::uint32_t separator = 0x7u << static_cast<int>(Category::Zs);
// Beside the category:
inline constexpr std::uint32_t white_space = 1u << 29;  // \s of all the regular expressions here; White_Space
inline constexpr std::uint32_t han = 1u << 30;
}  // namespace code_point

/// Questions that have their own tables in the tokenizers package.
enum class CodePointFlag : std::uint8_t {
  han,
  oniguruma_word,
  rust_word,
  punctuation,
  numeric,
  accent,      // of StripAccents
  left_alone,  // by NFC and the like, whose tables are older than the rest: they neither change nor move it
};

/// The tables, built once (thread-safe) and valid for the life of the program.
class UnicodeTable {
 public:
  static const UnicodeTable& get();

  Category category(char32_t c) const { return static_cast<Category>(kinds_[index_[c]] & 31u); }
  bool has(char32_t c, CodePointFlag flag) const {
    return (kinds_[index_[c]] >> (5 + static_cast<int>(flag)) & 1u) != 0;
  }
  /// Appends the lower case of a character.
  void append_lower(char32_t c, std::string& text) const;
  /// Bits of code_point::*. c < 0x110000.
  std::uint32_t bits(char32_t c) const { return bits_[index_[c]]; }

 private:
  UnicodeTable();
  std::vector<std::uint8_t> index_;  // of the kind, for every code point
  std::vector<std::uint16_t> kinds_;
  std::vector<std::uint32_t> bits_;  // of a kind
};

inline bool is_white_space(char32_t c) {
  return c < 0x80 ? c == ' ' || (c >= 9 && c <= 13) : (UnicodeTable::get().bits(c) & code_point::white_space) != 0;
}

/// Sorted, disjoint, inclusive ranges of code points.
using CodePointRanges = std::vector<std::pair<char32_t, char32_t>>;

/// All code points (surrogates left out) for which `predicate` holds.
template <typename Predicate>
CodePointRanges code_points_where(Predicate&& predicate) {
  CodePointRanges ranges;
  for (char32_t c = 0; c < 0x110000; ++c) {
    if ((c >= 0xd800 && c < 0xe000) || !predicate(c)) continue;
    if (!ranges.empty() && ranges.back().second + 1 == c)
      ranges.back().second = c;
    else
      ranges.emplace_back(c, c);
  }
  return ranges;
}

// ---- UTF-8

/// Bytes of the character that begins with `lead`, in valid UTF-8.
inline int utf8_length(unsigned char lead) {
  return lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}
/// The code point at `at`, in valid UTF-8; moves `at` past it.
inline char32_t next_code_point(const char*& at) {
  const auto byte = [&](int i) { return static_cast<unsigned char>(at[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return static_cast<unsigned char>(*at++);
  if (lead < 0xe0) {
    const char32_t c = (lead & 31u) << 6 | (byte(1) & 63u);
    at += 2;
    return c;
  }
  if (lead < 0xf0) {
    const char32_t c = (lead & 15u) << 12 | (byte(1) & 63u) << 6 | (byte(2) & 63u);
    at += 3;
    return c;
  }
  const char32_t c = (lead & 7u) << 18 | (byte(1) & 63u) << 12 | (byte(2) & 63u) << 6 | (byte(3) & 63u);
  at += 4;
  return c;
}
/// Where the character before `at` begins, in valid UTF-8.
inline const char* previous_code_point(const char* at) {
  do --at;
  while ((static_cast<unsigned char>(*at) & 0xc0u) == 0x80u);
  return at;
}
void append_utf8(std::string& text, char32_t c);

/// Bytes of the longest prefix that is valid UTF-8 (no surrogates, nothing overlong, nothing above 10FFFF).
std::size_t valid_utf8_prefix(std::string_view text);
/// Bytes at the end that are the beginning of a character, which more bytes may complete: 0 to 3.
std::size_t unfinished_utf8_suffix(std::string_view text);
/// Whether all bytes are ASCII.
bool is_ascii(std::string_view text);

// ---- bytes that are no UTF-8
//
// Everything after this point works on valid UTF-8. Text that is not becomes so by escaping: each byte that belongs to
// no character becomes the private-use code point `escaped_byte(byte)`, which no class but "other" contains. Characters
// of the text that happen to be one of those 256 are escaped byte by byte themselves, so that unescaping is exact.

inline constexpr char32_t first_escape = 0x10ff00;
inline bool is_escape(char32_t c) {
  return c >= first_escape && c < first_escape + 256;
}
/// `bytes` with everything that is no UTF-8 escaped.
std::string escape_invalid_utf8(std::string_view bytes);
/// Undoes escape_invalid_utf8; appends to `bytes`.
void unescape(std::string_view text, std::string& bytes);

}  // namespace longhaul
