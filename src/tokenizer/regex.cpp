#include "tokenizer/regex.h"

#include "base/error.h"

#ifdef LONGHAUL_WITH_PCRE2
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#endif

namespace longhaul {

#ifdef LONGHAUL_WITH_PCRE2
namespace {

// A long run that a pattern has to give back character by character needs stack in JIT code, and steps that count
// against the match limit; the library's own limits are for short subjects.
constexpr std::size_t jit_stack_bytes = std::size_t{64} << 20;
constexpr std::uint32_t match_limit = 1u << 31;
constexpr std::uint32_t heap_limit_kibibytes = 1u << 20;

std::string message_of(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

struct Compiled {
  pcre2_code* code = nullptr;
  ~Compiled() { pcre2_code_free(code); }
};

// What one search needs and threads must not share.
struct Search {
  pcre2_match_data* data;
  pcre2_match_context* context;
  pcre2_jit_stack* stack;
  explicit Search(const pcre2_code* code)
      : data(pcre2_match_data_create_from_pattern(code, nullptr)),
        context(pcre2_match_context_create(nullptr)),
        stack(pcre2_jit_stack_create(32 << 10, jit_stack_bytes, nullptr)) {
    LONGHAUL_CHECK(data && context && stack, "no memory for a search");
    pcre2_set_match_limit(context, match_limit);
    pcre2_set_heap_limit(context, heap_limit_kibibytes);
    pcre2_jit_stack_assign(context, nullptr, stack);
  }
  Search(const Search&) = delete;
  ~Search() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
};

}  // namespace

struct Regex::Code : Compiled {};

Regex::Regex(std::string_view pattern, RegexDialect dialect) : code_(std::make_unique<Code>()), pattern_(pattern) {
  const std::string translated = translate_regex(pattern, dialect);
  int error = 0;
  PCRE2_SIZE offset = 0;
  code_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(), PCRE2_UTF | PCRE2_UCP,
                              &error, &offset, nullptr);
  if (!code_->code)
    fail("the regular expression {}, as {}, is refused by PCRE2 at byte {}: {}", pattern, translated, offset,
         message_of(error));
  pcre2_jit_compile(code_->code, PCRE2_JIT_COMPLETE);  // where it cannot, matches are interpreted: the same ones
}

Regex::~Regex() = default;

void Regex::matches(std::string_view text, std::vector<Match>& out) const {
  out.clear();
  const Search search(code_->code);
  std::size_t from = 0, last_end = std::string_view::npos;
  while (from <= text.size()) {
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data() ? text.data() : "");
    const int found =
        pcre2_match(code_->code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, search.data, search.context);
    if (found == PCRE2_ERROR_NOMATCH) return;
    if (found < 0)
      fail("the regular expression {} cannot be matched behind byte {} of a text of {} bytes: {}", pattern_, from,
           text.size(), message_of(found));
    const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(search.data);
    if (ends[0] == ends[1] && ends[1] == last_end) {
      if (from == text.size()) return;
      from += static_cast<std::size_t>(utf8_length(static_cast<unsigned char>(text[from])));
      continue;
    }
    out.push_back({ends[0], ends[1]});
    from = last_end = ends[1];
  }
}

CodePointRanges library_property(std::string_view name) {
  // One text of all code points; what is found in it are runs of members. Surrogates are no UTF-8.
  std::string text;
  const auto fill = [&](char32_t first, char32_t last) {
    for (char32_t c = first; c <= last; ++c) append_utf8(text, c);
  };
  fill(0, 0xd7ff);
  fill(0xe000, 0x10ffff);
  const std::string pattern = fmt::format("\\p{{{}}}++", name);
  int error = 0;
  PCRE2_SIZE offset = 0;
  Compiled compiled;
  compiled.code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), PCRE2_UTF | PCRE2_UCP,
                                &error, &offset, nullptr);
  LONGHAUL_CHECK(compiled.code, "{} is no class of PCRE2", pattern);
  pcre2_jit_compile(compiled.code, PCRE2_JIT_COMPLETE);
  const Search search(compiled.code);
  CodePointRanges ranges;
  std::size_t from = 0;
  while (pcre2_match(compiled.code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from, PCRE2_NO_UTF_CHECK,
                     search.data, search.context) > 0) {
    const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(search.data);
    const char* first = text.data() + ends[0];
    const char* last = previous_code_point(text.data() + ends[1]);
    const char32_t low = next_code_point(first), high = next_code_point(last);
    if (low < 0xd800 && high >= 0xe000) {
      ranges.emplace_back(low, 0xd7ff);
      ranges.emplace_back(0xe000, high);
    } else {
      ranges.emplace_back(low, high);
    }
    from = ends[1];
  }
  return ranges;
}

#else

struct Regex::Code {};
Regex::Regex(std::string_view pattern, RegexDialect) {
  fail(
      "the tokenizer splits text by the regular expression {}, which needs PCRE2, and this program was built without "
      "it: "
      "install libpcre2-dev and build again",
      pattern);
}
Regex::~Regex() = default;
void Regex::matches(std::string_view, std::vector<Match>&) const {}
CodePointRanges library_property(std::string_view) {
  return {};
}

#endif

}  // namespace longhaul
