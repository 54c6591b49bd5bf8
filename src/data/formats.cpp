// Opens each format of token files: what its header, size and companions must say.
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <string_view>

#include "base/error.h"
#include "base/file_kind.h"
#include "data/token_file.h"

namespace longhaul {
namespace {

constexpr std::string_view megatron_magic("MMIDIDX\0\0", 9);

template <typename T>
T load(const MappedFile& file, std::int64_t offset, std::string_view what) {
  T value;
  std::memcpy(&value, file.at(offset, sizeof(T), what), sizeof(T));
  return value;
}

bool exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

std::string kind_of(const MappedFile& file, TakenFor expected) {
  return file_kind({reinterpret_cast<const char*>(file.data()),
                    static_cast<std::size_t>(std::min<std::int64_t>(file.size(), file_kind_bytes))},
                   expected);
}

void refuse_other_kinds(const MappedFile& file, std::string_view format, TakenFor expected) {
  const std::string kind = kind_of(file, expected);
  if (!kind.empty())
    fail("{} was given as data.format: {}, but its first bytes are those of {}", file.path(), format, kind);
}

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
          "datatrove reads such files",
          width == 2 ? "uint16" : "uint32");
  return "";
}

void refuse_empty(const TokenFile& file) {
  if (file.count == 0) fail("{} holds no tokens", file.tokens_file.path());
}

std::string without_suffix(const std::string& path, std::string_view suffix) {
  return path.ends_with(suffix) ? path.substr(0, path.size() - suffix.size()) : path;
}

}  // namespace

TokenFile open_text(const std::string& path) {
  TokenFile file;
  file.tokens_file = MappedFile(path);
  file.count = file.tokens_file.size();
  file.index_kind = TokenFile::Index::whole;
  file.documents = 1;
  refuse_other_kinds(file.tokens_file, "text", TakenFor::text);
  refuse_empty(file);
  return file;
}

TokenFile open_jsonl(const std::string& path, std::optional<std::int32_t> end_token, bool mask_prompts) {
  TokenFile file;
  file.tokens_file = MappedFile(path);
  file.index_kind = TokenFile::Index::jsonl;
  refuse_other_kinds(file.tokens_file, "jsonl", TakenFor::text);
  const std::string_view text(reinterpret_cast<const char*>(file.tokens_file.data()),
                              static_cast<std::size_t>(file.tokens_file.size()));
  file.jsonl = std::make_unique<JsonlFile>(text, path, end_token);
  file.masks_prompts = mask_prompts;
  file.count = file.jsonl->size();
  file.documents = file.jsonl->documents();
  refuse_empty(file);
  return file;
}

TokenFile open_llmc(const std::string& path) {
  TokenFile file;
  file.tokens_file = MappedFile(path);
  const auto& bytes = file.tokens_file;
  file.tokens_offset = 256 * 4;
  const auto magic = load<std::int32_t>(bytes, 0, "the llm.c header");
  const auto version = load<std::int32_t>(bytes, 4, "the llm.c header");
  if (magic == 20240520 && version == 1)
    file.type = TokenType::uint16;
  else if (magic == 20240801 && version == 7)
    file.type = TokenType::uint32;
  else if (const std::string kind = kind_of(bytes, TakenFor::tokens); !kind.empty())
    fail("{} was given as data.format: llmc, but its first bytes are those of {}", path, kind);
  else
    fail(
        "{}: magic {} and version {} at byte 0 are not those of an llm.c token file (20240520 and 1, or 20240801 and "
        "7){}",
        path, magic, version, advice_on_raw_tokens(bytes));
  bytes.at(0, file.tokens_offset, "the llm.c header");
  file.count = load<std::int32_t>(bytes, 8, "the llm.c header");
  if (file.count < 0) fail("{}: the token count at byte 8 is {}", path, file.count);
  const std::int64_t expected = file.tokens_offset + file.count * bytes_of(file.type);
  if (bytes.size() != expected)
    fail("{}: the header at byte 8 counts {} {} tokens, which makes {} bytes, but the file has {}: it is {}", path,
         file.count, name_of(file.type), expected, bytes.size(),
         bytes.size() < expected ? "truncated" : "not what its header says");
  refuse_empty(file);
  return file;
}

TokenFile open_megatron(const std::string& path) {
  const std::string prefix = path.ends_with(".idx") ? without_suffix(path, ".idx") : without_suffix(path, ".bin");
  TokenFile file;
  file.index_kind = TokenFile::Index::megatron;
  file.tokens_file = MappedFile(prefix + ".bin");
  file.index = MappedFile(prefix + ".idx");
  const auto& index = file.index;
  if (std::memcmp(index.at(0, 9, "the Megatron header"), megatron_magic.data(), 9) != 0)
    fail("{}: byte 0 does not hold the MMIDIDX magic of a Megatron index", index.path());
  index.at(0, 34, "the Megatron header");
  if (const auto version = load<std::uint64_t>(index, 9, "version"); version != 1)
    fail("{}: version {} at byte 9; version 1 is supported", index.path(), version);
  switch (const auto code = load<std::uint8_t>(index, 17, "dtype code"); code) {
    case 1:
      file.type = TokenType::uint8;
      break;
    case 2:
      file.type = TokenType::int8;
      break;
    case 3:
      file.type = TokenType::int16;
      break;
    case 4:
      file.type = TokenType::int32;
      break;
    case 5:
      file.type = TokenType::int64;
      break;
    case 8:
      file.type = TokenType::uint16;
      break;
    default:
      fail("{}: dtype code {} at byte 17 is not that of whole numbers (1 to 5, or 8): these are not token ids",
           index.path(), code);
  }
  const auto sequences = load<std::uint64_t>(index, 18, "sequence count");
  const auto document_entries = load<std::uint64_t>(index, 26, "document count");
  const auto limit = static_cast<std::uint64_t>(index.size());
  if (sequences > limit || document_entries > limit)
    fail(
        "{}: {} sequences (byte 18) and {} document entries (byte 26) do not fit its {} bytes: it is truncated or "
        "garbled",
        index.path(), sequences, document_entries, limit);
  const std::uint64_t expected = 34 + sequences * 12 + document_entries * 8;
  // A multimodal index has one more byte a sequence, which text does not need.
  if (limit != expected && limit != expected + sequences)
    fail("{}: {} sequences and {} document entries make {} bytes, but it has {}: it is {}", index.path(), sequences,
         document_entries, expected, limit, limit < expected ? "truncated" : "garbled");
  file.sequences = static_cast<std::int64_t>(sequences);
  file.documents = static_cast<std::int64_t>(document_entries) - 1;
  const std::int64_t width = bytes_of(file.type);
  if (file.tokens_file.size() % width != 0)
    fail("{}: {} bytes are not a whole number of {} tokens: it is truncated or of another type than {} says",
         file.tokens_file.path(), file.tokens_file.size(), name_of(file.type), index.path());
  file.count = file.tokens_file.size() / width;
  refuse_empty(file);
  if (sequences == 0 || document_entries < 2)
    fail("{}: it lists {} sequences and {} document entries, but {} has {} tokens", index.path(), sequences,
         document_entries, file.tokens_file.path(), file.count);
  const std::int64_t lengths = 34, pointers = lengths + file.sequences * 4, starts = pointers + file.sequences * 8;
  const auto length = load<std::int32_t>(index, pointers - 4, "last length");
  const auto pointer = load<std::int64_t>(index, starts - 8, "last pointer");
  if (pointer < 0 || pointer > file.tokens_file.size() || length < 0 ||
      pointer + length * width != file.tokens_file.size())
    fail(
        "{}: the last sequence, of {} {} tokens from byte {}, should end {}, which has {} bytes: truncated, or not its "
        "index",
        index.path(), length, name_of(file.type), pointer, file.tokens_file.path(), file.tokens_file.size());
  const auto first = load<std::int64_t>(index, starts, "first document");
  const auto last = load<std::int64_t>(index, starts + file.documents * 8, "last document");
  if (first != 0 || last != file.sequences)
    fail("{}: documents run from sequence {} to {} instead of 0 to {}", index.path(), first, last, file.sequences);
  return file;
}

TokenFile open_datatrove(const std::string& path, std::int64_t vocabulary) {
  TokenFile file;
  file.tokens_file = MappedFile(path);
  const std::int64_t bytes = file.tokens_file.size();
  if (bytes == 0) fail("{} holds no tokens", path);
  refuse_other_kinds(file.tokens_file, "datatrove", TakenFor::tokens);
  std::int64_t width = vocabulary > 65536 ? 4 : 2;
  std::string reason = fmt::format("the vocabulary of {}", vocabulary);
  std::optional<std::int64_t> tokens;
  std::string tokens_reason;
  const auto state_tokens = [&](std::int64_t stated, const std::string& source) {
    if (tokens && *tokens != stated)
      fail("{} has {} tokens by {} but {} by {}", path, *tokens, tokens_reason, stated, source);
    tokens = stated;
    tokens_reason = source;
  };
  if (exists(path + ".index")) {
    file.index_kind = TokenFile::Index::datatrove;
    file.index = MappedFile(path + ".index");
    const std::int64_t size = file.index.size();
    if (size == 0 || size % 8 != 0)
      fail("{}: {} bytes are not a list of 8-byte document ends: it is truncated or no datatrove index",
           file.index.path(), size);
    file.documents = size / 8;
    const auto last = load<std::uint64_t>(file.index, size - 8, "last document end");
    if (last > static_cast<std::uint64_t>(bytes))
      fail("{}: the last document ends at token {} (byte {}), but {} has {} bytes", file.index.path(), last, size - 8,
           path, bytes);
    state_tokens(static_cast<std::int64_t>(last), file.index.path());
  }
  if (exists(path + ".loss")) {
    file.loss = MappedFile(path + ".loss");
    state_tokens(file.loss->size(), file.loss->path());
  }
  if (exists(path + ".metadata")) {
    // "tokenizer|token size" (older files: no size), the token count, and the count for people.
    const std::string source = path + ".metadata";
    const std::string text = read_text(source, 1 << 20);
    const std::string first = text.substr(0, text.find('\n'));
    if (const auto bar = first.rfind('|'); bar != std::string::npos) {
      const std::string size = first.substr(bar + 1);
      if (size != "2" && size != "4") fail("{}: a token size of '{}' bytes; 2 and 4 are known", source, size);
      width = size == "2" ? 2 : 4;
      reason = source;
    }
    std::string second = first.size() + 1 < text.size() ? text.substr(first.size() + 1) : "";
    second = second.substr(0, second.find('\n'));
    if (second.empty() || second.size() > 18 || second.find_first_not_of("0123456789") != std::string::npos)
      fail("{}: its second line, '{}', is not a token count", source, second.substr(0, 40));
    state_tokens(std::stoll(second), source);
  }
  if (tokens && reason != path + ".metadata" && (bytes == *tokens * 2 || bytes == *tokens * 4)) {
    width = bytes / *tokens;
    reason = tokens_reason;
  }
  if (bytes % width != 0 || (tokens && *tokens * width != bytes))
    fail("{}: {} bytes are not {} tokens of {} bytes (size by {}): it is truncated or of another type", path, bytes,
         tokens ? fmt::format("{}, as {} says,", *tokens, tokens_reason) : "a whole number of", width, reason);
  file.type = width == 2 ? TokenType::uint16 : TokenType::uint32;
  file.count = bytes / width;
  return file;
}

}  // namespace longhaul
