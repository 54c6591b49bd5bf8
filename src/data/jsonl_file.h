// JSONL: one JSON object a line, each a document. Private to src/data.
//
//   {"text": "..."}                          the document is the text
//   {"prompt": "...", "completion": "..."}   the document is the prompt and, right after it, the completion
//
// Other fields are ignored, whatever number they hold: NaN, Infinity, -Infinity and numbers beyond a double, which
// Python's json module writes, are taken there. Lines of blanks only are skipped; lines end with LF or CR LF; a byte
// order mark may begin any line. A token is a byte of the UTF-8 that a string stands for once its escapes are resolved;
// half a surrogate pair, which stands for nothing, becomes U+FFFD and is counted. The file is indexed once and stays
// mapped; strings are decoded where they are read.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace longhaul {

class JsonlFile {
 public:
  /// Checks and indexes every line of `text`, the contents of the file `path`, which must outlive this. `end_token`:
  /// one more token after each document. Throws Error naming file and line: not valid JSON (RFC 8259, UTF-8 included),
  /// no object, none or not one set of the fields above, a field twice, or one that is no string.
  JsonlFile(std::string_view text, std::string path, std::optional<std::int32_t> end_token);

  /// Tokens of all documents, the end tokens included.
  std::int64_t size() const { return size_; }
  /// Tokens [begin, begin + count). Throws Error when the file is no longer what was indexed.
  void read(std::int64_t begin, std::int64_t count, std::int32_t* tokens) const;
  /// mask[i] = 0 when token begin + i is of a prompt, else 1.
  void read_prompt_mask(std::int64_t begin, std::int64_t count, std::uint8_t* mask) const;

  std::int64_t documents() const { return static_cast<std::int64_t>(documents_.size()); }
  /// One past a document's last token (its end token, if there is one).
  std::int64_t document_end(std::int64_t document) const;
  std::int64_t prompt_tokens() const { return prompt_tokens_; }
  /// Halves of surrogate pairs that became U+FFFD.
  std::int64_t lone_surrogates() const { return lone_surrogates_; }

  /// Throws Error naming the line of the first of tokens [begin, end) that is not below `vocabulary`.
  void validate(std::int64_t begin, std::int64_t end, std::int64_t vocabulary) const;

 private:
  struct Document {
    std::int64_t first = 0;   // token
    std::int64_t prompt = 0;  // its first tokens, that are of the prompt
    std::int64_t line = 0;    // from 1
  };
  // A place from which decoding can start: each string's begin, and more within long ones.
  struct Mark {
    std::int64_t token, offset;
  };
  void index_line(std::size_t begin, std::size_t end, std::int64_t line);
  void index_string(std::string_view line, std::size_t place, std::size_t offset);
  std::size_t document_of(std::int64_t token) const;
  [[noreturn]] void refuse(std::int64_t line, const std::string& what) const;

  std::string_view text_;
  std::string path_;
  std::optional<std::int32_t> end_token_;
  std::vector<Document> documents_;
  std::vector<Mark> marks_;
  std::int64_t size_ = 0, prompt_tokens_ = 0, lone_surrogates_ = 0;
};

}  // namespace longhaul
