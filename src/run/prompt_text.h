// Between people's text and a model's token ids.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace longhaul {

/// Text by the tokenizer that lies in a folder; without one bytes, for a vocabulary of 256 to 512, else numbers.
class PromptText {
 public:
  /// `folder` may be empty: no tokenizer. With `ids` numbers, whatever lies there. Throws Error for a tokenizer that
  /// cannot be read.
  PromptText(const std::filesystem::path& folder, std::int64_t vocabulary, bool ids);
  /// By the tokenizer in a file or folder; none: bytes.
  PromptText(const std::optional<std::filesystem::path>& tokenizer, std::int64_t vocabulary);

  /// The ids of a text, with what the tokenizer puts around one and special tokens in it taken as such; of numbers
  /// ("1 2 3", commas allowed). Throws Error for what is no number, no token of the vocabulary, or nothing at all.
  std::vector<std::int32_t> encode(std::string_view text) const;
  std::string decode(std::span<const std::int32_t> ids) const;
  /// How prompts are read, for a log.
  std::string description() const;
  /// The token that ends a text by the tokenizer, or by bytes.
  std::optional<std::int32_t> end() const;

 private:
  std::unique_ptr<Tokenizer> tokenizer_;  // null: bytes or numbers
  std::int64_t vocabulary_;
  bool bytes_ = false;
};

/// The tokens at which generation ends: eos_token_id of generation_config.json in `folder`, else of `config_text`
/// (config.json), each a number or a list; else `otherwise`. Throws Error for garbled files.
std::set<std::int32_t> end_tokens(const std::filesystem::path& folder, const std::string& config_text,
                                  std::optional<std::int32_t> otherwise);

}  // namespace longhaul
