#include "tokenizer/splitter.h"

#include "tokenizer/unicode.h"

namespace longhaul {
namespace {

using namespace code_point;

constexpr std::uint32_t o200k_upper =
    letter & ~category(Category::Ll);                   // Lu Lt Lm Lo; marks are added where it is used
constexpr std::uint32_t o200k_lower = letter & ~upper;  // Ll Lm Lo

struct Reader {
  const UnicodeTable& table = UnicodeTable::get();
  std::uint32_t operator()(const char* at, const char*& after) const {
    after = at;
    return table.bits(next_code_point(after));
  }
  // Past all characters with one of `wanted`.
  const char* run(const char* at, const char* end, std::uint32_t wanted) const {
    while (at < end) {
      const char* after;
      if (((*this)(at, after) & wanted) == 0) break;
      at = after;
    }
    return at;
  }
  // Past all characters with none of `unwanted`.
  const char* run_without(const char* at, const char* end, std::uint32_t unwanted) const {
    while (at < end) {
      const char* after;
      if (((*this)(at, after) & unwanted) != 0) break;
      at = after;
    }
    return at;
  }
};

bool is_break(char c) {
  return c == '\n' || c == '\r';
}

// Bytes of 's 't 're 've 'm 'll 'd at `at`, which is an apostrophe, or 0. In any case also U+017F, whose upper case is
// S.
int contraction(const char* at, const char* end, bool any_case) {
  const auto letter_at = [&](int i) -> char {
    if (end - at <= i) return '\0';
    const char c = at[i];
    return any_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  };
  const char first = letter_at(1), second = letter_at(2);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  if ((first == 'r' || first == 'v') && second == 'e') return 3;
  if (first == 'l' && second == 'l') return 3;
  if (any_case && first == '\xc5' && second == '\xbf') return 3;
  return 0;
}

}  // namespace

// What no other alternative took: white space, but for a single space before something.
const char* Splitter::spaces(const char* at, const char* end) const {
  const Reader read;
  const char* run_end = at;
  const char* last = at;       // where the last character of the run begins
  const char* break_end = at;  // behind the last line break of the run
  while (run_end < end) {
    const char* after;
    if ((read(run_end, after) & white_space) == 0) break;
    last = run_end;
    run_end = after;
    if (is_break(*last)) break_end = run_end;
  }
  if (run_end == end && (rules_.whole_tail || rules_.family == Family::gpt2)) return end;
  if (rules_.family != Family::gpt2 && break_end > at) return break_end;
  // All but the last character, which goes with what follows it; one alone, or the rest of the text, is a piece.
  return run_end == end || last == at ? run_end : last;
}

const char* Splitter::punctuation(const char* at, const char* end) const {
  at = Reader().run_without(at, end, white_space | letter | number);
  if (rules_.family == Family::gpt2) return at;
  while (at < end && (is_break(*at) || (rules_.slash && *at == '/'))) ++at;
  return at;
}

const char* Splitter::digits(const char* at, const char* end) const {
  const Reader read;
  for (int i = 0; i < rules_.digits && at < end; ++i) {
    const char* after;
    if ((read(at, after) & number) == 0) break;
    at = after;
  }
  return at;
}

const char* Splitter::piece_gpt2(const char* at, const char* end) const {
  const Reader read;
  if (*at == '\'')
    if (const int length = contraction(at, end, false)) return at + length;
  const char* after;
  const char* from = at;
  std::uint32_t bits = read(at, after);
  if (*at == ' ' && after < end) {
    const std::uint32_t next = read(after, after);
    if ((next & white_space) == 0) {
      from = at + 1;
      bits = next;
    }
  }
  if ((bits & letter) != 0) return read.run(from, end, letter);
  if ((bits & number) != 0) return read.run(from, end, number);
  if ((bits & white_space) == 0) return punctuation(from, end);
  return spaces(at, end);
}

const char* Splitter::piece_cl100k(const char* at, const char* end) const {
  const Reader read;
  if (*at == '\'')
    if (const int length = contraction(at, end, true)) return at + length;
  const char* after;
  const std::uint32_t bits = read(at, after);
  if ((bits & letter) != 0) return read.run(after, end, letter);
  if ((bits & number) != 0) return digits(at, end);
  std::uint32_t next = 0;
  if (after < end) {
    const char* beyond;
    next = read(after, beyond);
    if ((next & letter) != 0 && !is_break(*at)) return read.run(beyond, end, letter);
  }
  if ((bits & white_space) == 0) return punctuation(at, end);
  if (*at == ' ' && after < end && (next & (white_space | letter | number)) == 0) return punctuation(after, end);
  return spaces(at, end);
}

const char* Splitter::piece_o200k(const char* at, const char* end) const {
  const Reader read;
  const char* after;
  const std::uint32_t bits = read(at, after);
  constexpr std::uint32_t may_begin = o200k_upper | mark, may_end = o200k_lower | mark;

  // U*L+ from `from`, as a backtracking engine finds it; null: there is none.
  const auto lower_word = [&](const char* from) -> const char* {
    const char* place = from;
    const char* last_both = nullptr;  // behind the last character that could also end the word
    while (place < end) {
      const char* beyond;
      const std::uint32_t one = read(place, beyond);
      if ((one & may_begin) == 0) break;
      place = beyond;
      if ((one & may_end) != 0) last_both = beyond;
    }
    const char* tail = read.run(place, end, may_end);
    return tail > place ? tail : last_both;
  };
  // U+L*.
  const auto upper_word = [&](const char* from) -> const char* {
    const char* place = read.run(from, end, may_begin);
    return place == from ? nullptr : read.run(place, end, may_end);
  };
  const bool may_lead = (bits & (letter | number)) == 0 && !is_break(*at);
  const char* word = may_lead ? lower_word(after) : nullptr;
  if (!word && (bits & (letter | mark)) != 0) word = lower_word(at);
  if (!word && may_lead) word = upper_word(after);
  if (!word && (bits & (letter | mark)) != 0) word = upper_word(at);
  if (word) {
    if (rules_.contractions && word < end && *word == '\'') word += contraction(word, end, true);
    return word;
  }
  if ((bits & number) != 0) return digits(at, end);
  if ((bits & white_space) == 0) return punctuation(at, end);
  if (*at == ' ' && after < end) {
    const char* beyond;
    if ((read(after, beyond) & (white_space | letter | number)) == 0) return punctuation(after, end);
  }
  return spaces(at, end);
}

const std::vector<Splitter::Known>& Splitter::known() {
#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define REST R"(|\s*[\r\n]+|\s+(?!\S)|\s+)"
#define CASED_WORDS(behind)                                                                \
  R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)" behind \
  R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)" behind "|"
  constexpr auto both = true;
  constexpr auto ruby = RegexDialect::oniguruma, rust = RegexDialect::rust;
  static const std::vector<Known> table = {
      // GPT-2, and as tiktoken writes it now
      {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", ruby, both, {Family::gpt2}},
      {R"('(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s)",
       rust,
       false,
       {Family::gpt2}},
      // Llama 3, Phi-4; Qwen 2 and 3; OLMo 2
      {CONTRACTIONS R"(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)" REST,
       ruby,
       both,
       {Family::cl100k, 3}},
      {CONTRACTIONS R"(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)" REST,
       ruby,
       both,
       {Family::cl100k, 1}},
      {R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)",
       ruby,
       both,
       {Family::cl100k, 3}},
      // cl100k_base as tiktoken writes it now
      {R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s)",
       rust,
       false,
       {Family::cl100k, 3, false, false, true}},
      // o200k_base; Mistral Nemo
      {CASED_WORDS(CONTRACTIONS "?") R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*)" REST,
       ruby,
       both,
       {Family::o200k, 3, true, true}},
      {CASED_WORDS("") R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*)" REST, ruby, both, {Family::o200k, 1, false, true}},
  };
#undef CONTRACTIONS
#undef REST
#undef CASED_WORDS
  return table;
}

std::optional<Splitter> Splitter::of_pattern(std::string_view pattern, RegexDialect dialect) {
  for (const Known& one : known())
    if (one.pattern == pattern && (one.any_dialect || one.dialect == dialect)) return Splitter(one.rules);
  return std::nullopt;
}

std::vector<std::pair<std::string_view, RegexDialect>> Splitter::known_patterns() {
  std::vector<std::pair<std::string_view, RegexDialect>> patterns;
  for (const Known& one : known()) patterns.emplace_back(one.pattern, one.dialect);
  return patterns;
}

}  // namespace longhaul
