// llmc: llm.c's .bin, 256 int32 of header (magic 20240520 and version 1: uint16 tokens; 20240801 and 7: uint32 tokens;
// then their count), then the tokens. It says nothing of documents.
#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "data/format.h"
#include "data/stored_tokens.h"

namespace longhaul {
namespace {

// nanoGPT and others write tokens without a header. Not proof, so advice only.
std::string advice_on_raw_tokens(const MappedFile& bytes) {
  const auto plausible = [&](std::int64_t width) {
    const std::int64_t count = std::min<std::int64_t>(bytes.size() / width, 4096);
    std::int64_t largest = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      std::uint32_t token = 0;
      std::memcpy(&token, bytes.data() + i * width, static_cast<std::size_t>(width));
      largest = std::max<std::int64_t>(largest, token);
    }
    return bytes.size() % width == 0 && count > 0 && largest < (width == 2 ? 65536 : 1 << 20);
  };
  for (const std::int64_t width : {4, 2})
    if (plausible(width))
      return fmt::format(
          "; they may be the first of raw {} tokens without a header, as nanoGPT's prepare.py writes them: "
          "data.format: "
          "raw with data.token_bytes: {} reads such files",
          width == 2 ? "uint16" : "uint32", width);
  return "";
}

class LlmcFile : public StoredTokens {
 public:
  explicit LlmcFile(const std::string& path) {
    file_ = MappedFile(path);
    offset_ = 256 * 4;
    const auto magic = load_number<std::int32_t>(file_, 0, "the llm.c header");
    const auto version = load_number<std::int32_t>(file_, 4, "the llm.c header");
    if (magic == 20240520 && version == 1)
      type_ = TokenType::uint16;
    else if (magic == 20240801 && version == 7)
      type_ = TokenType::uint32;
    else if (const std::string kind = kind_of(file_, TakenFor::tokens); !kind.empty())
      fail("{} was given as data.format: llmc, but its first bytes are those of {}", path, kind);
    else
      fail(
          "{}: magic {} and version {} at byte 0 are not those of an llm.c token file (20240520 and 1, or 20240801 and "
          "7){}",
          path, magic, version, advice_on_raw_tokens(file_));
    file_.at(0, offset_, "the llm.c header");
    count_ = load_number<std::int32_t>(file_, 8, "the llm.c header");
    if (count_ < 0) fail("{}: the token count at byte 8 is {}", path, count_);
    const std::int64_t expected = offset_ + count_ * bytes_of(type_);
    if (file_.size() != expected)
      fail("{}: the header at byte 8 counts {} {} tokens, which makes {} bytes, but the file has {}: it is {}", path,
           count_, name_of(type_), expected, file_.size(),
           file_.size() < expected ? "truncated" : "not what its header says");
    refuse_empty();
  }
};

void finish(const WrittenTokens& written) {
  std::vector<std::int32_t> header(256);
  header[0] = written.width == 2 ? 20240520 : 20240801;
  header[1] = written.width == 2 ? 1 : 7;
  header[2] = static_cast<std::int32_t>(written.tokens);
  written.write_header(std::string(reinterpret_cast<const char*>(header.data()), 256 * 4));
}

const FormatRegistration llmc({{.name = "llmc", .meaning = "llm.c `.bin`", .documents = ""},
                               {".bin"},
                               only_itself,
                               [](const std::string& path, const FormatOptions&) -> std::unique_ptr<TokenFile> {
                                 return std::make_unique<LlmcFile>(path);
                               },
                               FormatWriter{.ending = ".bin",
                                            .header_bytes = 256 * 4,
                                            .most_tokens = std::numeric_limits<std::int32_t>::max(),
                                            .finish = finish}});

}  // namespace
}  // namespace longhaul
