// raw: ids and nothing else, little-endian, of data.token_bytes each, as nanoGPT and many scripts prepare
// them. It says nothing of documents.
#include "base/error.h"
#include "data/format.h"
#include "data/stored_tokens.h"

namespace longhaul {
namespace {

class RawFile : public StoredTokens {
 public:
  RawFile(const std::string& path, const FormatOptions& options) : guessed_(!options.token_bytes) {
    file_ = MappedFile(path);
    if (file_.size() == 0) fail("{} holds no tokens", path);
    refuse_other_kinds(file_, "raw", TakenFor::tokens);
    const std::int64_t width = options.token_bytes.value_or(options.vocabulary > 65536 ? 4 : 2);
    if (file_.size() % width != 0)
      fail("{}: {} bytes are not a whole number of tokens of {} bytes ({}): it is truncated or has another format",
           path, file_.size(), width,
           guessed_ ? fmt::format("by the vocabulary of {}; data.token_bytes says another", options.vocabulary)
                    : "data.token_bytes");
    type_ = width == 2 ? TokenType::uint16 : TokenType::uint32;
    count_ = file_.size() / width;
  }

  std::string guessed() const override {
    return guessed_ ? fmt::format("tokens are taken to have {} bytes, by the vocabulary; data.token_bytes says another",
                                  bytes_of(type_))
                    : "";
  }

 private:
  bool guessed_;
};

const FormatRegistration raw(
    {{.name = "raw", .meaning = "ids without a header, of `data.token_bytes`", .documents = "", .headerless = true},
     {".bin", ".raw"},
     only_itself,
     [](const std::string& path, const FormatOptions& options) -> std::unique_ptr<TokenFile> {
       return std::make_unique<RawFile>(path, options);
     },
     FormatWriter{.ending = ".bin"}});

}  // namespace
}  // namespace longhaul
