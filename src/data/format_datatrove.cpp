// datatrove: NAME.ds (any name), uint16 or uint32 tokens without a header; beside it, where present, NAME.ds.index (an
// int64 a document, its end), NAME.ds.loss (a byte a token, 0: no label) and NAME.ds.metadata (the tokenizer with the
// bytes of a token, and the number of tokens).
#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "base/error.h"
#include "data/format.h"
#include "data/stored_tokens.h"

namespace longhaul {
namespace {

bool exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

class DatatroveFile : public StoredTokens {
 public:
  DatatroveFile(const std::string& path, const FormatOptions& options) {
    file_ = MappedFile(path);
    if (file_.size() == 0) fail("{} holds no tokens", path);
    refuse_other_kinds(file_, "datatrove", TakenFor::tokens);
    width_ = options.vocabulary > 65536 ? 4 : 2;
    width_source_ = fmt::format("the vocabulary of {}", options.vocabulary);
    if (exists(path + ".index")) open_index(path + ".index");
    if (exists(path + ".loss")) {
      loss_ = MappedFile(path + ".loss");
      state_tokens(loss_->size(), loss_->path());
    }
    if (exists(path + ".metadata")) read_metadata(path + ".metadata");
    decide_width(path + ".metadata");
  }

  void validate(std::int64_t begin, std::int64_t end, std::int64_t vocabulary) const override {
    StoredTokens::validate(begin, end, vocabulary);
    if (index_) validate_documents(begin, end, index_->path());
  }

  std::string guessed() const override {
    return guessed_ ? fmt::format("tokens are taken to have {} bytes, by {}, for nothing beside the file says it",
                                  width_, width_source_)
                    : "";
  }
  bool has_documents() const override { return index_.has_value(); }
  std::int64_t documents() const override { return index_ ? index_->size() / 8 : 0; }
  std::int64_t document_end(std::int64_t document) const override {
    const auto end = load_number<std::uint64_t>(*index_, 8 * document, "a document end");
    return checked_end(document, static_cast<std::int64_t>(end), index_->path());
  }

  bool has_loss_mask() const override { return loss_.has_value(); }
  void read_loss_mask(std::int64_t begin, std::int64_t amount, std::uint8_t* mask) const override {
    if (!loss_) return TokenFile::read_loss_mask(begin, amount, mask);
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(loss_->data()) + begin;
    for (std::int64_t i = 0; i < amount; ++i) mask[i] = bytes[i] != 0;
  }

 protected:
  void require_unchanged() const override {
    file_.require_unchanged();
    if (index_) index_->require_unchanged();
    if (loss_) loss_->require_unchanged();
  }

 private:
  // What says how many tokens there are must agree with what said it before.
  void state_tokens(std::int64_t stated, const std::string& source) {
    if (tokens_ && *tokens_ != stated)
      fail("{} has {} tokens by {} but {} by {}", file_.path(), *tokens_, tokens_source_, stated, source);
    tokens_ = stated;
    tokens_source_ = source;
  }

  void open_index(const std::string& path) {
    index_ = MappedFile(path);
    const std::int64_t size = index_->size();
    if (size == 0 || size % 8 != 0)
      fail("{}: {} bytes are not a list of 8-byte document ends: it is truncated or no datatrove index", path, size);
    const auto last = load_number<std::uint64_t>(*index_, size - 8, "last document end");
    if (last > static_cast<std::uint64_t>(file_.size()))
      fail("{}: the last document ends at token {} (byte {}), but {} has {} bytes", path, last, size - 8, file_.path(),
           file_.size());
    state_tokens(static_cast<std::int64_t>(last), path);
  }

  // "tokenizer|token size" (older files: no size), the token count, and the count for people.
  void read_metadata(const std::string& path) {
    const std::string text = read_text(path, 1 << 20);
    const std::string first = text.substr(0, text.find('\n'));
    if (const auto bar = first.rfind('|'); bar != std::string::npos) {
      const std::string size = first.substr(bar + 1);
      if (size != "2" && size != "4") fail("{}: a token size of '{}' bytes; 2 and 4 are known", path, size);
      width_ = size == "2" ? 2 : 4;
      width_source_ = path;
    }
    std::string second = first.size() + 1 < text.size() ? text.substr(first.size() + 1) : "";
    second = second.substr(0, second.find('\n'));
    if (second.empty() || second.size() > 18 || second.find_first_not_of("0123456789") != std::string::npos)
      fail("{}: its second line, '{}', is not a token count", path, second.substr(0, 40));
    state_tokens(std::stoll(second), path);
  }

  // The metadata says it, or the count of tokens does, and only where neither does the vocabulary decides.
  void decide_width(const std::string& metadata) {
    const std::int64_t bytes = file_.size();
    if (tokens_ && width_source_ != metadata && (bytes == *tokens_ * 2 || bytes == *tokens_ * 4)) {
      width_ = bytes / *tokens_;
      width_source_ = tokens_source_;
    }
    if (bytes % width_ != 0 || (tokens_ && *tokens_ * width_ != bytes))
      fail("{}: {} bytes are not {} tokens of {} bytes (size by {}): it is truncated or of another type", file_.path(),
           bytes, tokens_ ? fmt::format("{}, as {} says,", *tokens_, tokens_source_) : "a whole number of", width_,
           width_source_);
    guessed_ = width_source_ != metadata && width_source_ != tokens_source_;
    type_ = width_ == 2 ? TokenType::uint16 : TokenType::uint32;
    count_ = bytes / width_;
  }

  std::optional<MappedFile> index_, loss_;
  std::int64_t width_ = 0;  // bytes of a token
  bool guessed_ = false;    // the width
  std::optional<std::int64_t> tokens_;
  std::string width_source_, tokens_source_;
};

void rename_file(const std::string& from, const std::string& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0) fail_system("rename to " + to, from, -1, errno);
}

void finish(const WrittenTokens& written) {
  rename_file(written.ends_file, written.output + ".index");
  if (written.no_labels > 0) rename_file(written.loss_file, written.output + ".loss");
  const auto count = static_cast<double>(written.tokens);
  write_text_atomically(written.output + ".metadata",
                        fmt::format("{}|{}\n{}\n{}", written.tokenizer, written.width, written.tokens,
                                    count >= 1e9   ? fmt::format("{:.2f} GT", count / 1e9)
                                    : count >= 1e6 ? fmt::format("{:.2f} MT", count / 1e6)
                                                   : fmt::format("{:.2f} KT", count / 1e3)));
}

const FormatRegistration datatrove(
    {{.name = "datatrove", .meaning = "`.ds` with its `.index` and optional `.loss`", .documents = "by its .index"},
     {".ds", ".bin"},
     [](const std::string& path) {
       return std::vector{path, path + ".index", path + ".loss", path + ".metadata"};
     },
     [](const std::string& path, const FormatOptions& options) -> std::unique_ptr<TokenFile> {
       return std::make_unique<DatatroveFile>(path, options);
     },
     FormatWriter{.ending = ".ds", .loss_mask = true, .finish = finish}});

}  // namespace
}  // namespace longhaul
