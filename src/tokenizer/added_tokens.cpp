#include "tokenizer/added_tokens.h"

#include "tokenizer/unicode.h"

namespace longhaul {
namespace {

bool is_word(char32_t c) {
  return UnicodeTable::get().has(c, CodePointFlag::rust_word);
}

}  // namespace

AddedTokens::AddedTokens(std::vector<Token> tokens) : tokens_(std::move(tokens)) {
  for (std::size_t i = 0; i < tokens_.size(); ++i)
    if (!tokens_[i].content.empty()) trie_.add(tokens_[i].content, static_cast<std::int32_t>(i));
  trie_.finish();
}

void AddedTokens::split(std::string_view text, bool special, std::vector<Part>& parts) const {
  std::size_t done = 0;  // what parts cover
  const auto add = [&](std::size_t begin, std::size_t end, std::int32_t id) {
    if (begin < end) parts.push_back({text.substr(begin, end - begin), id});
  };
  for (std::size_t at = 0; !trie_.empty() && at < text.size();) {
    if (!trie_.begins(static_cast<unsigned char>(text[at]))) {
      ++at;
      continue;
    }
    std::size_t length = 0;
    std::int32_t which = -1;
    trie_.prefixes(text.substr(at), [&](std::size_t bytes, std::int32_t value) {
      length = bytes;
      which = value;
    });
    if (which < 0) {
      ++at;
      continue;
    }
    const Token& token = tokens_[static_cast<std::size_t>(which)];
    std::size_t begin = at, end = at + length;
    at = end;  // found is found: what is passed over is not searched again
    if (token.special && !special) continue;
    if (token.single_word) {
      const char* before = text.data() + begin;
      if (begin > 0) {
        const char* last = previous_code_point(before);
        if (is_word(next_code_point(last))) continue;
      }
      const char* after = text.data() + end;
      if (end < text.size() && is_word(next_code_point(after))) continue;
    }
    while (token.strip_left && begin > done) {
      const char* last = previous_code_point(text.data() + begin);
      const char* place = last;
      if (!is_white_space(next_code_point(place))) break;
      begin = static_cast<std::size_t>(last - text.data());
    }
    while (token.strip_right && end < text.size()) {
      const char* next = text.data() + end;
      if (!is_white_space(next_code_point(next))) break;
      end = static_cast<std::size_t>(next - text.data());
    }
    if (begin < done) begin = done;  // a token before took the spaces and, by then, this one's beginning
    add(done, begin, -1);
    parts.push_back({text.substr(begin, end > begin ? end - begin : 0), token.id});
    done = end;
  }
  add(done, text.size(), -1);
}

}  // namespace longhaul
