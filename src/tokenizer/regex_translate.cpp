// From Oniguruma's (Ruby) or fancy-regex's syntax to PCRE2's.
//
// PCRE2 would read most patterns as they are, and silently mean something else: its Unicode is as old as the system's
// package, its \s holds U+180E, \p{Han} means script extensions, \h is a space where Oniguruma has a hexadecimal digit,
// and {1,3}+ is possessive where Oniguruma repeats. So a pattern is read item by item and what is not known is refused.
#include <algorithm>
#include <charconv>

#include "base/error.h"
#include "tokenizer/regex.h"
#include "tokenizer/unicode.h"

namespace longhaul {
namespace {

CodePointRanges unite(CodePointRanges a, const CodePointRanges& b) {
  a.insert(a.end(), b.begin(), b.end());
  std::sort(a.begin(), a.end());
  CodePointRanges out;
  for (const auto& range : a) {
    if (!out.empty() && range.first <= out.back().second + 1)
      out.back().second = std::max(out.back().second, range.second);
    else
      out.push_back(range);
  }
  return out;
}

CodePointRanges complement(const CodePointRanges& a) {
  CodePointRanges out;
  char32_t next = 0;
  for (const auto& [first, last] : a) {
    if (first > next) out.emplace_back(next, first - 1);
    next = last + 1;
  }
  if (next < 0x110000) out.emplace_back(next, 0x10ffff);
  return out;
}

CodePointRanges intersect(const CodePointRanges& a, const CodePointRanges& b) {
  return complement(unite(complement(a), complement(b)));
}

std::string spelled(const CodePointRanges& ranges) {
  std::string text;
  for (const auto& [first, last] : ranges) {
    text += fmt::format("\\x{{{:x}}}", static_cast<std::uint32_t>(first));
    if (last > first) text += fmt::format("-\\x{{{:x}}}", static_cast<std::uint32_t>(last));
  }
  return text;
}

/// A part of a character class: what PCRE2 reads between brackets, and the code points that it means.
struct Set {
  std::string text;
  CodePointRanges ranges;
};

std::uint32_t category_bits(std::string_view name) {
  static constexpr std::string_view names[] = {"Cn", "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd",
                                               "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm",
                                               "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Co"};
  std::uint32_t bits = 0;
  for (std::size_t i = 1; i < std::size(names); ++i)  // not Cn: no pattern asks for what is unassigned
    if (names[i] == name || (name.size() == 1 && name != "C" && names[i][0] == name[0])) bits |= 1u << i;
  return bits;
}

CodePointRanges ranges_of_bits(std::uint32_t bits) {
  const UnicodeTable& table = UnicodeTable::get();
  return code_points_where([&](char32_t c) { return (table.bits(c) & bits) != 0; });
}

/// \p{name}. PCRE2's own class keeps its speed; what Unicode has assigned since is added to it.
Set property(std::string_view name) {
  static constexpr std::pair<std::string_view, std::string_view> long_names[] = {
      {"Letter", "L"}, {"Number", "N"}, {"Mark", "M"}, {"Punctuation", "P"}, {"Symbol", "S"}, {"Separator", "Z"}};
  for (const auto& [other, one] : long_names)
    if (name == other) name = one;
  if (name == "Han" || name == "Script=Han") {
    const UnicodeTable& table = UnicodeTable::get();
    Set set;
    set.ranges = code_points_where([&](char32_t c) { return table.has(c, CodePointFlag::han); });
    set.text = spelled(set.ranges);
    return set;
  }
  const std::uint32_t bits = category_bits(name);
  if (bits == 0)
    fail(
        "\\p{{{}}} is not a class that this program knows: general categories (L, Lu, N, Nd, P, S, M, Z, ...) and Han "
        "are",
        name);
  Set set;
  set.ranges = ranges_of_bits(bits);
  const CodePointRanges known = library_property(name);
  if (intersect(known, complement(set.ranges)).empty())
    set.text = fmt::format("\\p{{{}}}", name) + spelled(intersect(set.ranges, complement(known)));
  else
    set.text = spelled(set.ranges);
  return set;
}

Set negated(const Set& set) {
  Set other;
  other.ranges = complement(set.ranges);
  other.text = spelled(other.ranges);
  return other;
}

class Translator {
 public:
  Translator(std::string_view pattern, RegexDialect dialect) : pattern_(pattern), dialect_(dialect) {}

  std::string translate() {
    alternatives();
    if (at_ < pattern_.size()) refuse("a ) without its (");
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    fail("the regular expression {} has {} at byte {}, which this program does not support", pattern_, what, at_);
  }
  bool more() const { return at_ < pattern_.size(); }
  char peek(std::size_t ahead = 0) const { return at_ + ahead < pattern_.size() ? pattern_[at_ + ahead] : '\0'; }
  bool accept(std::string_view text) {
    if (!pattern_.substr(at_).starts_with(text)) return false;
    at_ += text.size();
    return true;
  }

  void alternatives() {
    if (++depth_ > 50) refuse("groups nested deeper than 50");
    while (more() && peek() != ')') {
      if (accept("|")) {
        out_ += '|';
        continue;
      }
      const std::size_t begin = out_.size();
      if (atom()) quantifiers(begin);
    }
    --depth_;
  }

  // True when a quantifier may follow.
  bool atom() {
    const char c = peek();
    switch (c) {
      case '(':
        group();
        return true;
      case '[': {
        const Set set = character_class();
        out_ += '[' + set.text + ']';
        return true;
      }
      case '.':
        ++at_;
        out_ += "[^\\n]";
        return true;
      case '^':
        ++at_;
        // Ruby's ^ and $ are about lines.
        out_ += dialect_ == RegexDialect::oniguruma ? "(?:\\A|(?<=\\n)(?!\\z))" : "\\A";
        return false;
      case '$':
        ++at_;
        out_ += dialect_ == RegexDialect::oniguruma ? "(?=\\n|\\z)" : "\\z";
        return true;  // tiktoken writes \s++$, nothing more, but a possessive $ is harmless
      case '\\': {
        if (peek(1) == 'A' || peek(1) == 'z') {
          out_ += pattern_.substr(at_, 2);
          at_ += 2;
          return false;
        }
        const Set set = escape();
        out_ += '[' + set.text + ']';
        return true;
      }
      case '*':
      case '+':
      case '?':
        refuse(fmt::format("{} with nothing before it", c));
      default: {
        const char32_t literal = code_point();
        if (literal < 0x80 &&
            std::string_view("{}[]()\\^$.|?*+#-").find(static_cast<char>(literal)) != std::string_view::npos)
          out_ += '\\';
        append_utf8(out_, literal);
        return true;
      }
    }
  }

  void group() {
    ++at_;
    if (peek() != '?') {
      out_ += "(?:";  // groups are never referred to
    } else {
      static constexpr std::string_view kinds[] = {"?:", "?=", "?!", "?<=", "?<!", "?>"};
      const auto kind = std::find_if(std::begin(kinds), std::end(kinds), [&](auto one) { return accept(one); });
      if (kind != std::end(kinds)) {
        out_ += '(' + std::string(*kind);
      } else if (accept("?i:") || accept("?-i:")) {
        out_ += pattern_[at_ - 3] == '-' ? "(?-i:" : "(?i:";
      } else if (accept("?i)")) {
        out_ += "(?i)";
        return;
      } else {
        refuse("a group of another kind than (?: (?= (?! (?<= (?<! (?> (?i: (?-i: (?i)");
      }
    }
    alternatives();
    if (!accept(")")) refuse("a ( without its )");
    out_ += ')';
  }

  void quantifiers(std::size_t begin) {
    bool quantified = false;
    for (;;) {
      const char c = peek();
      if (c == '*' || c == '+' || c == '?') {
        if (quantified) refuse("a quantifier after a quantifier");
        ++at_;
        out_ += c;
        if (peek() == '?' || peek() == '+') out_ += pattern_[at_++];
        quantified = true;
      } else if (c == '{' && is_interval()) {
        if (quantified) refuse("a quantifier after a quantifier");
        interval(begin);
        quantified = true;
      } else {
        return;
      }
    }
  }

  bool is_interval() const {
    const auto close = pattern_.find('}', at_);
    if (close == std::string_view::npos || close == at_ + 1) return false;
    const auto inside = pattern_.substr(at_ + 1, close - at_ - 1);
    return inside.find_first_not_of("0123456789,") == std::string_view::npos &&
           std::count(inside.begin(), inside.end(), ',') <= 1 && inside != ",";
  }

  void interval(std::size_t begin) {
    const auto close = pattern_.find('}', at_);
    const std::string inside(pattern_.substr(at_ + 1, close - at_ - 1));
    at_ = close + 1;
    out_ += '{' + (inside[0] == ',' ? "0" + inside : inside) + '}';
    if (peek() == '?') {
      if (inside.find(',') == std::string::npos) refuse("{n}?");
      ++at_;
      out_ += '?';
    } else if (peek() == '+') {
      ++at_;
      if (dialect_ == RegexDialect::rust) {
        out_ += '+';
      } else {  // Oniguruma: once more or more often
        out_.insert(begin, "(?:");
        out_ += ")+";
      }
    }
  }

  char32_t code_point() {
    const char* begin = pattern_.data() + at_;
    const char* at = begin;
    const char32_t c = next_code_point(at);
    at_ += static_cast<std::size_t>(at - begin);
    return c;
  }

  char32_t hexadecimal(std::size_t begin, std::size_t digits) {
    std::uint32_t value = 0;
    const auto text = pattern_.substr(begin, digits);
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
    if (text.size() != digits || digits == 0 || error != std::errc() || end != text.data() + digits || value > 0x10ffff)
      refuse("an escape that is no hexadecimal number");
    return value;
  }

  static Set of_ranges(CodePointRanges ranges) {
    Set set;
    set.text = spelled(ranges);
    set.ranges = std::move(ranges);
    return set;
  }

  static Set words(RegexDialect dialect) {
    const auto flag = dialect == RegexDialect::oniguruma ? CodePointFlag::oniguruma_word : CodePointFlag::rust_word;
    const UnicodeTable& table = UnicodeTable::get();
    return of_ranges(code_points_where([&](char32_t c) { return table.has(c, flag); }));
  }

  // A backslash and what belongs to it: a class or a character.
  Set escape() {
    const char c = peek(1);
    const std::size_t begin = at_;
    at_ += 2;
    switch (c) {
      case 'p':
      case 'P': {
        if (peek() != '{') {
          at_ = begin;
          refuse("\\p without {}");
        }
        const auto close = pattern_.find('}', at_);
        if (close == std::string_view::npos) refuse("\\p{ without its }");
        std::string_view name = pattern_.substr(at_ + 1, close - at_ - 1);
        at_ = close + 1;
        bool negative = c == 'P';
        if (name.starts_with('^')) {
          negative = !negative;
          name.remove_prefix(1);
        }
        const Set set = property(name);
        return negative ? negated(set) : set;
      }
      case 's':
        return of_ranges(ranges_of_bits(code_point::white_space));
      case 'S':
        return of_ranges(complement(ranges_of_bits(code_point::white_space)));
      case 'd':
        return property("Nd");
      case 'D':
        return negated(property("Nd"));
      case 'w':
        return words(dialect_);
      case 'W':
        return negated(words(dialect_));
      case 'r':
        return of_ranges({{'\r', '\r'}});
      case 'n':
        return of_ranges({{'\n', '\n'}});
      case 't':
        return of_ranges({{'\t', '\t'}});
      case 'f':
        return of_ranges({{'\f', '\f'}});
      case 'v':
        return of_ranges({{'\v', '\v'}});
      case 'x':
      case 'u': {
        char32_t value = 0;
        if (peek() == '{') {
          const auto close = pattern_.find('}', at_);
          if (close == std::string_view::npos) refuse("\\x{ without its }");
          value = hexadecimal(at_ + 1, close - at_ - 1);
          at_ = close + 1;
        } else {
          const std::size_t digits = c == 'x' ? 2 : 4;
          value = hexadecimal(at_, digits);
          at_ += digits;
        }
        return of_ranges({{value, value}});
      }
      default:
        break;
    }
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x80 || byte <= ' ' || (byte >= '0' && byte <= '9') || ((byte | 32u) >= 'a' && (byte | 32u) <= 'z')) {
      at_ = begin;
      refuse(fmt::format("\\{}", c));
    }
    return of_ranges({{byte, byte}});
  }

  // [...], its brackets included. Intersections and classes within classes become plain ranges.
  Set character_class() {
    if (++depth_ > 50) refuse("classes nested deeper than 50");
    ++at_;
    const bool negative = accept("^");
    Set all, side;  // side: what stands since the last &&
    bool intersected = false, plain = true, first = true;
    for (; first || peek() != ']'; first = false) {
      if (!more()) refuse("a [ without its ]");
      if (accept("&&")) {
        all.ranges = intersected ? intersect(all.ranges, side.ranges) : side.ranges;
        intersected = true;
        side = {};
        continue;
      }
      if (peek() == '[' && peek(1) == ':') refuse("a POSIX class");
      Set item;
      if (peek() == '[') {
        item = character_class();
        plain = false;
      } else if (peek() == '\\') {
        item = escape();
      } else {
        const char32_t c = code_point();
        item = of_ranges({{c, c}});
      }
      const bool one = item.ranges.size() == 1 && item.ranges[0].first == item.ranges[0].second;
      if (peek() == '-' && peek(1) != ']' && peek(1) != '\0' && one && peek(1) != '[') {
        ++at_;
        Set last;
        if (peek() == '\\') {
          last = escape();
        } else {
          const char32_t c = code_point();
          last = of_ranges({{c, c}});
        }
        const char32_t from = item.ranges[0].first;
        if (last.ranges.size() != 1 || last.ranges[0].first != last.ranges[0].second || last.ranges[0].first < from)
          refuse("a range of characters that does not ascend");
        item = of_ranges({{from, last.ranges[0].first}});
      }
      side.text += item.text;
      side.ranges = unite(std::move(side.ranges), item.ranges);
    }
    ++at_;
    --depth_;
    if (intersected) side.ranges = intersect(all.ranges, side.ranges);
    if (side.ranges.empty()) refuse("a class of no characters");
    if (intersected || !plain) side.text = spelled(side.ranges);
    if (negative) {
      side.ranges = complement(side.ranges);
      side.text = (intersected || !plain) ? spelled(side.ranges) : '^' + side.text;
    }
    return side;
  }

  std::string_view pattern_;
  RegexDialect dialect_;
  std::size_t at_ = 0;
  std::string out_;
  int depth_ = 0;
};

}  // namespace

std::string translate_regex(std::string_view pattern, RegexDialect dialect) {
  if (valid_utf8_prefix(pattern) != pattern.size()) fail("a regular expression of the tokenizer is not UTF-8");
  return Translator(pattern, dialect).translate();
}

}  // namespace longhaul
