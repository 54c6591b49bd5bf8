// jsonl: an object a line, {"text": ...} or {"prompt": ..., "completion": ...} (jsonl_file.h); tokens are bytes as of
// text, and the end token stands after every line.
#include "data/format.h"
#include "data/jsonl_file.h"
#include "data/stored_tokens.h"

#include "base/error.h"

namespace longhaul {
namespace {

class JsonlTokens : public TokenFile {
 public:
  JsonlTokens(const std::string& path, const FormatOptions& options)
      : file_(path), masks_prompts_(options.mask_prompt) {
    refuse_other_kinds(file_, "jsonl", TakenFor::text);
    const std::string_view contents(reinterpret_cast<const char*>(file_.data()),
                                    static_cast<std::size_t>(file_.size()));
    lines_ = std::make_unique<JsonlFile>(contents, path, options.end_token);
    if (lines_->size() == 0) fail("{} holds no tokens", path);
  }

  std::int64_t size() const override { return lines_->size(); }
  void read(std::int64_t begin, std::int64_t amount, std::int64_t vocabulary, std::int32_t* out) const override {
    file_.require_unchanged();
    lines_->read(begin, amount, out);
    if (vocabulary < 256) lines_->validate(begin, begin + amount, vocabulary);
  }
  void validate(std::int64_t begin, std::int64_t end, std::int64_t vocabulary) const override {
    lines_->validate(begin, end, vocabulary);
  }
  bool has_documents() const override { return true; }
  std::int64_t documents() const override { return lines_->documents(); }
  std::int64_t document_end(std::int64_t document) const override { return lines_->document_end(document); }
  bool has_loss_mask() const override { return masks_prompts_; }
  void read_loss_mask(std::int64_t begin, std::int64_t amount, std::uint8_t* mask) const override {
    if (masks_prompts_)
      lines_->read_prompt_mask(begin, amount, mask);
    else
      TokenFile::read_loss_mask(begin, amount, mask);
  }
  std::int64_t prompt_tokens() const override { return lines_->prompt_tokens(); }
  std::int64_t lone_surrogates() const override { return lines_->lone_surrogates(); }

 private:
  MappedFile file_;
  std::unique_ptr<JsonlFile> lines_;  // into file_
  bool masks_prompts_;
};

const FormatRegistration jsonl(
    {{.name = "jsonl",
      .meaning = "a JSON object a line, each a document, with the field `text`, or `prompt` and `completion`",
      .documents = "a line is one",
      .text = true,
      .prompts = true},
     {".jsonl", ".json", ".ndjson"},
     only_itself,
     [](const std::string& path, const FormatOptions& options) -> std::unique_ptr<TokenFile> {
       return std::make_unique<JsonlTokens>(path, options);
     }});

}  // namespace
}  // namespace longhaul
