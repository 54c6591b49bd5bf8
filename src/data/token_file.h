// One file of tokens, whatever its format. Private to src/data.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "data/jsonl_file.h"
#include "io/file.h"

namespace longhaul {

enum class TokenType : std::uint8_t { uint8, int8, int16, uint16, int32, uint32, int64 };
std::int64_t bytes_of(TokenType type);
std::string_view name_of(TokenType type);
/// The largest value of the type that could be a token id.
std::int64_t largest_value(TokenType type);

/// Tokens lie in `tokens_file` from byte `tokens_offset` on; `index` (where the format has one) gives the documents.
struct TokenFile {
  enum class Index : std::uint8_t { none, whole, jsonl, datatrove, megatron };

  MappedFile tokens_file;
  TokenType type = TokenType::uint8;
  std::int64_t tokens_offset = 0;
  std::int64_t count = 0;                 // tokens in the file
  std::optional<std::int32_t> separator;  // one more token after the file's own
  Index index_kind = Index::none;         // whole: the file is one document
  MappedFile index;
  std::int64_t sequences = 0;  // megatron
  std::int64_t documents = 0;
  std::optional<MappedFile> loss;    // one byte a token
  std::unique_ptr<JsonlFile> jsonl;  // when there is one it alone knows tokens and documents
  bool masks_prompts = false;        // jsonl: tokens of prompts are no labels

  std::int64_t size() const { return count + (separator ? 1 : 0); }
  /// Tokens [begin, begin + amount) of this file, the separator included. Throws Error for one outside [0, vocabulary),
  /// and when the file is not what it was when it was opened (MappedFile::require_unchanged).
  void read(std::int64_t begin, std::int64_t amount, std::int64_t vocabulary, std::int32_t* out) const;
  /// One past the last token of a document, counted in this file. Throws Error for an index that points outside.
  std::int64_t document_end(std::int64_t document) const;
  bool has_loss_mask() const { return loss || masks_prompts; }
  /// mask[i] = 0 when token begin + i is no label to learn from, else 1.
  void read_loss_mask(std::int64_t begin, std::int64_t amount, std::uint8_t* mask) const;
  /// Throws Error for the first of tokens [begin, end) outside [0, vocabulary).
  void validate_tokens(std::int64_t begin, std::int64_t end, std::int64_t vocabulary) const;
  /// Throws Error when the tokens or what belongs to them is no longer what was opened.
  void require_unchanged() const;
  /// Checks share [begin, end) of size() of the index: documents and sequences follow each other without holes.
  void validate_index(std::int64_t begin, std::int64_t end) const;
};

TokenFile open_text(const std::string& path);
/// `end_token`: after every document.
TokenFile open_jsonl(const std::string& path, std::optional<std::int32_t> end_token, bool mask_prompts);
TokenFile open_llmc(const std::string& path);
TokenFile open_megatron(const std::string& path);
/// `vocabulary` decides between uint16 and uint32 only where neither metadata, index nor loss file does.
TokenFile open_datatrove(const std::string& path, std::int64_t vocabulary);

}  // namespace longhaul
