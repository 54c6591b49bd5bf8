// One file of tokens, whatever its format. Private to src/data.
#pragma once
#include <cstdint>
#include <string>

namespace longhaul {

/// Tokens and documents of a file are counted from 0. Reads may come from several threads; each throws Error naming the
/// file when it is no longer what was opened.
class TokenFile {
 public:
  virtual ~TokenFile() = default;
  /// Tokens, with those that the format adds. At least 1.
  virtual std::int64_t size() const = 0;
  /// Copies tokens [begin, begin + amount). Throws Error for one outside [0, vocabulary).
  virtual void read(std::int64_t begin, std::int64_t amount, std::int64_t vocabulary, std::int32_t* out) const = 0;
  /// Scans tokens [begin, end) and the same share of what the format has beside them: shares that cover [0, size())
  /// check everything. Throws Error naming place and value of the first token outside [0, vocabulary), or what is
  /// wrong.
  virtual void validate(std::int64_t begin, std::int64_t end, std::int64_t vocabulary) const = 0;

  /// False: the file does not say where documents end, and has none.
  virtual bool has_documents() const { return false; }
  virtual std::int64_t documents() const { return 0; }
  /// One past the last token of a document. Throws Error for an index that points outside.
  virtual std::int64_t document_end(std::int64_t document) const;

  virtual bool has_loss_mask() const { return false; }
  /// mask[i] = 0 when token begin + i is no label to learn from, else 1.
  virtual void read_loss_mask(std::int64_t begin, std::int64_t amount, std::uint8_t* mask) const;

  /// What was guessed of the file because nothing says it, for the log; "": nothing.
  virtual std::string guessed() const { return ""; }

  /// Tokens that are of prompts.
  virtual std::int64_t prompt_tokens() const { return 0; }
  /// Halves of surrogate pairs in its text, which became U+FFFD.
  virtual std::int64_t lone_surrogates() const { return 0; }
};

}  // namespace longhaul
