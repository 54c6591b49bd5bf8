// Tokenizers: text to token ids and back, with the ids of the field's own libraries.
//
// Files that load_tokenizer reads, and what their ids equal (docs/data.md has the comparisons):
//   tokenizer.json   Hugging Face tokenizers: BPE (byte level or byte fallback) and Unigram
//   *.model          sentencepiece, through its library; or, as Llama 3 names it, tiktoken ranks
//   *.tiktoken       tiktoken ranks; see tiktoken.cpp for where the pattern comes from
// Text is bytes: where it is UTF-8 the ids are those of the libraries; bytes that belong to no character are kept, each
// as a character that is neither letter nor digit nor space, wherever the vocabulary can say bytes at all.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace longhaul {

struct EncodeOptions {
  /// Special tokens that stand in the text ("<|endoftext|>") become their ids; false: they are text like any other.
  /// Added tokens that are not special are found either way, as in tokenizers.
  bool special_tokens_in_text = false;
  /// What the file's post-processor adds: the tokens before and after a text.
  bool add_special_tokens = false;
};

/// One thread's encoder: remembers words it has seen. Must not outlive its tokenizer.
class Encoder {
 public:
  virtual ~Encoder() = default;
  /// Appends the ids of `text` to `ids`. Throws Error when the vocabulary cannot say the text at all.
  virtual void encode(std::string_view text, const EncodeOptions& options, std::vector<std::int32_t>& ids) = 0;
};

/// A vocabulary and its rules. Const members may be called from several threads.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// A new encoder for the calling thread.
  virtual std::unique_ptr<Encoder> encoder() const = 0;
  /// Ids of one text, by an encoder made for it.
  std::vector<std::int32_t> encode(std::string_view text, const EncodeOptions& options = {}) const;

  /// The bytes that ids stand for, special tokens as they are written. Throws Error for an id outside the vocabulary.
  virtual std::string decode(std::span<const std::int32_t> ids) const = 0;
  /// Whether what an id says depends on more than whether there is text before it, so that it is not known before more
  /// ids are. Where it is false of all ids, decode(a and b) is decode(a) and then what depends on b alone, once
  /// decode(a) is not empty.
  virtual bool depends_on_neighbours(std::int32_t id) const = 0;

  /// One more than the largest id.
  virtual std::int64_t vocabulary_size() const = 0;
  /// The id of a token as the file writes it, added tokens included.
  virtual std::optional<std::int32_t> id_of(std::string_view token) const = 0;

  /// A token that was added to the model's vocabulary.
  struct AddedToken {
    std::string content;
    std::int32_t id = 0;
    bool special = false;
    bool strip_left = false, strip_right = false;  // it takes the white space beside it
  };
  virtual const std::vector<AddedToken>& added_tokens() const = 0;

  /// The tokens that begin and end a text, where the files say which (tokenizer_config.json, special_tokens_map.json or
  /// the model file itself).
  std::optional<std::int32_t> bos() const { return bos_; }
  std::optional<std::int32_t> eos() const { return eos_; }

  /// What it is, for a log: "BPE of 50257 ids, byte level".
  virtual std::string description() const = 0;
  /// The file it was read from, and a hash of everything that decides its ids.
  const std::filesystem::path& file() const { return file_; }
  std::uint64_t fingerprint() const { return fingerprint_; }

 protected:
  friend std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path);
  std::optional<std::int32_t> bos_, eos_;
  std::filesystem::path file_;
  std::uint64_t fingerprint_ = 0;
};

/// Reads a tokenizer: a file of the list above, or a folder that holds one (tokenizer.json before *.model before
/// *.tiktoken). What the file asks for and we lack is refused by name; a file kind whose library this program was built
/// without is refused with the package to install. Throws Error.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path);

/// The tokenizer file in a folder, or nothing.
std::optional<std::filesystem::path> tokenizer_file_in(const std::filesystem::path& folder);

}  // namespace longhaul
