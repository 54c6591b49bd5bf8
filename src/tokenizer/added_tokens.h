// Tokens added to a model's vocabulary, found in the text before anything else happens to it.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer/trie.h"

namespace longhaul {

/// One set of added tokens: those that are looked for in the text, or those looked for in its normalized form.
class AddedTokens {
 public:
  struct Token {
    std::string content;  // as it is looked for
    std::int32_t id = 0;
    bool single_word = false, strip_left = false, strip_right = false, special = false;
  };
  /// Of tokens with equal contents the first counts.
  explicit AddedTokens(std::vector<Token> tokens);

  struct Part {
    std::string_view text;
    std::int32_t id;  // -1: text between tokens
  };
  /// Cuts valid UTF-8 into tokens and what lies between: leftmost first, the longest of those that begin there.
  /// `special`: whether special tokens count; where not, they are passed over as text. Empty parts are left out.
  void split(std::string_view text, bool special, std::vector<Part>& parts) const;

 private:
  std::vector<Token> tokens_;
  Trie trie_;
};

}  // namespace longhaul
