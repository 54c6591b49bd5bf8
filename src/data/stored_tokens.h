// Files that hold token ids as numbers, one after the other: what the formats of such files share. Private to src/data.
#pragma once
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "base/file_kind.h"
#include "data/token_file.h"
#include "io/file.h"

namespace longhaul {

enum class TokenType : std::uint8_t { uint8, int8, int16, uint16, int32, uint32, int64 };
std::int64_t bytes_of(TokenType type);
std::string_view name_of(TokenType type);

/// `count` tokens of `type` lie in `file` from byte `offset` on, little-endian and aligned to nothing.
class StoredTokens : public TokenFile {
 public:
  std::int64_t size() const override { return count_; }
  void read(std::int64_t begin, std::int64_t amount, std::int64_t vocabulary, std::int32_t* out) const override;
  void validate(std::int64_t begin, std::int64_t end, std::int64_t vocabulary) const override;

 protected:
  /// Throws Error when a file that this one was opened with is no longer what it was.
  virtual void require_unchanged() const { file_.require_unchanged(); }
  void refuse_empty() const;
  /// Throws Error for a document end outside the tokens; `where` is the file that says it.
  std::int64_t checked_end(std::int64_t document, std::int64_t end, const std::string& where) const;
  /// The same for every document of the share [begin, end), and that none ends before it begins.
  void validate_documents(std::int64_t begin, std::int64_t end, const std::string& where) const;

  MappedFile file_;
  TokenType type_ = TokenType::uint8;
  std::int64_t offset_ = 0, count_ = 0;
};

/// Entries [first, last) of `total` that belong to the share [begin, end) of `size`; shares that cover everything give
/// every entry once.
std::pair<std::int64_t, std::int64_t> share_of(std::int64_t total, std::int64_t begin, std::int64_t end,
                                               std::int64_t size);

/// A number at `offset` of a file. Throws Error, saying that it lacks `what`, when the file ends before.
template <typename T>
T load_number(const MappedFile& file, std::int64_t offset, std::string_view what) {
  T value;
  std::memcpy(&value, file.at(offset, sizeof(T), what), sizeof(T));
  return value;
}

/// What a file's first bytes say it is, when that is something else than `expected`; "": nothing known.
std::string kind_of(const MappedFile& file, TakenFor expected);
/// Throws Error when kind_of finds something.
void refuse_other_kinds(const MappedFile& file, std::string_view format, TakenFor expected);

}  // namespace longhaul
