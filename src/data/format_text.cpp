// text: any bytes; a token is a byte, ids 0 to 255. The file is one document, and between files stands the end token.
#include <algorithm>

#include "base/error.h"
#include "data/format.h"
#include "data/stored_tokens.h"

namespace longhaul {
namespace {

class TextFile : public StoredTokens {
 public:
  TextFile(const std::string& path, const FormatOptions& options) {
    file_ = MappedFile(path);
    count_ = file_.size();
    refuse_other_kinds(file_, "text", TakenFor::text);
    refuse_empty();
    if (!options.last) end_token_ = options.end_token;
  }

  std::int64_t size() const override { return count_ + (end_token_ ? 1 : 0); }
  void read(std::int64_t begin, std::int64_t amount, std::int64_t vocabulary, std::int32_t* out) const override {
    const std::int64_t stored = std::min(amount, count_ - begin);
    if (stored < amount) out[amount - 1] = *end_token_;
    StoredTokens::read(begin, std::max<std::int64_t>(stored, 0), vocabulary, out);
  }
  void validate(std::int64_t begin, std::int64_t end, std::int64_t vocabulary) const override {
    if (end_token_ && end > count_ && *end_token_ >= vocabulary)
      fail("the end-of-document token {} is outside the vocabulary of {}", *end_token_, vocabulary);
    StoredTokens::validate(begin, std::min(end, count_), vocabulary);
  }
  bool has_documents() const override { return true; }
  std::int64_t documents() const override { return 1; }
  std::int64_t document_end(std::int64_t) const override { return size(); }

 private:
  std::optional<std::int32_t> end_token_;
};

const FormatRegistration text(
    {{.name = "text", .meaning = "UTF-8 text, tokenized while reading", .documents = "a file is one", .text = true},
     {".txt", ".text"},
     only_itself,
     [](const std::string& path, const FormatOptions& options) -> std::unique_ptr<TokenFile> {
       return std::make_unique<TextFile>(path, options);
     }});

}  // namespace
}  // namespace longhaul
