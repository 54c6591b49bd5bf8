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
  /// Whether an id says anything: a vocabulary may be padded beyond its tokenizer's.
  bool says(std::int32_t id) const;
  /// Tokenizer::depends_on_neighbours; false of an id that says nothing.
  bool depends_on_neighbours(std::int32_t id) const {
    return tokenizer_ && says(id) && tokenizer_->depends_on_neighbours(id);
  }
  /// How prompts are read, for a log.
  std::string description() const;
  /// The token that ends a text by the tokenizer, or by bytes.
  std::optional<std::int32_t> end() const;

 private:
  std::unique_ptr<Tokenizer> tokenizer_;  // null: bytes or numbers
  std::int64_t vocabulary_;
  bool bytes_ = false;
};

/// The text of a sequence that grows, told as it does. Laid together, what is told is PromptText::decode of all ids:
/// nothing is told before it is certain (half a character, bytes of one; with a decoder that rewrites a whole text,
/// anything). What a token costs does not grow with the sequence.
class TextStream {
 public:
  /// `text` must outlive it.
  explicit TextStream(const PromptText& text) : text_(text) {}
  /// Goes on with `ids`; returns what is certain by now and was not told yet.
  std::string append(std::span<const std::int32_t> ids);
  /// What was held back; there is no more to come.
  std::string finish();
  /// Ids whose text it still looks at: a bounded number, and those that wait for others.
  std::size_t held() const { return window_.size(); }

 private:
  std::string tell(std::size_t count, bool all);
  void forget();

  const PromptText& text_;
  std::vector<std::int32_t> window_;  // the sequence's last ids
  std::size_t told_ = 0;              // bytes of the window's text
};

/// The tokens at which generation ends: eos_token_id of generation_config.json in `folder`, else of `config_text`
/// (config.json), each a number or a list; else `otherwise`. Throws Error for garbled files.
std::set<std::int32_t> end_tokens(const std::filesystem::path& folder, const std::string& config_text,
                                  std::optional<std::int32_t> otherwise);

}  // namespace longhaul
