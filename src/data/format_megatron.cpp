// megatron: PREFIX.bin, the tokens, and PREFIX.idx, where sequences and documents lie in it; either file or the prefix
// may be named. The index: magic, version and type (18 bytes), the numbers of sequences and of document entries (8
// each), then an int32 length and an int64 byte offset a sequence and, an int64 each, the sequences at which documents
// begin, the number of sequences last.
#include <cstring>

#include "base/error.h"
#include "data/format.h"
#include "data/stored_tokens.h"

namespace longhaul {
namespace {

constexpr std::string_view magic("MMIDIDX\0\0", 9);
constexpr std::int64_t header = 34;  // bytes; nothing after them is aligned

std::string prefix_of(const std::string& path) {
  const bool suffixed = path.ends_with(".idx") || path.ends_with(".bin");
  return suffixed ? path.substr(0, path.size() - 4) : path;
}

class MegatronFile : public StoredTokens {
 public:
  explicit MegatronFile(const std::string& path) {
    file_ = MappedFile(prefix_of(path) + ".bin");
    index_ = MappedFile(prefix_of(path) + ".idx");
    read_header();
    const std::int64_t width = bytes_of(type_);
    if (file_.size() % width != 0)
      fail("{}: {} bytes are not a whole number of {} tokens: it is truncated or of another type than {} says",
           file_.path(), file_.size(), name_of(type_), index_.path());
    count_ = file_.size() / width;
    refuse_empty();
    check_ends();
  }

  void validate(std::int64_t begin, std::int64_t end, std::int64_t vocabulary) const override {
    StoredTokens::validate(begin, end, vocabulary);
    validate_documents(begin, end, index_.path());
    const std::int64_t width = bytes_of(type_);
    const auto [first, last] = share_of(sequences_, begin, end, size());
    for (std::int64_t sequence = first; sequence < last; ++sequence) {
      const std::int64_t begins = pointer(sequence), tokens = length(sequence);
      const std::int64_t next = sequence + 1 == sequences_ ? count_ * width : pointer(sequence + 1);
      if (tokens < 0 || begins < 0 || next - begins != tokens * width)
        fail("{}: sequence {} has {} tokens of {} bytes from byte {}, but the next one begins at byte {} of {}",
             index_.path(), sequence, tokens, width, begins, next, file_.path());
    }
  }

  bool has_documents() const override { return true; }
  std::int64_t documents() const override { return documents_; }
  std::int64_t document_end(std::int64_t document) const override {
    const std::int64_t sequence = document_sequence(document + 1);
    if (sequence < 0 || sequence > sequences_)
      fail("{}: document {} ends before sequence {} of {}", index_.path(), document, sequence, sequences_);
    return checked_end(document, sequence == sequences_ ? count_ : pointer(sequence) / bytes_of(type_), index_.path());
  }

 protected:
  void require_unchanged() const override {
    file_.require_unchanged();
    index_.require_unchanged();
  }

 private:
  void read_header() {
    if (std::memcmp(index_.at(0, 9, "the Megatron header"), magic.data(), magic.size()) != 0)
      fail("{}: byte 0 does not hold the MMIDIDX magic of a Megatron index", index_.path());
    index_.at(0, header, "the Megatron header");
    if (const auto version = load_number<std::uint64_t>(index_, 9, "version"); version != 1)
      fail("{}: version {} at byte 9; version 1 is supported", index_.path(), version);
    type_ = type_of(load_number<std::uint8_t>(index_, 17, "dtype code"));
    const auto sequences = load_number<std::uint64_t>(index_, 18, "sequence count");
    const auto entries = load_number<std::uint64_t>(index_, 26, "document count");
    const auto limit = static_cast<std::uint64_t>(index_.size());
    if (sequences > limit || entries > limit)
      fail(
          "{}: {} sequences (byte 18) and {} document entries (byte 26) do not fit its {} bytes: it is truncated or "
          "garbled",
          index_.path(), sequences, entries, limit);
    const std::uint64_t expected = header + sequences * 12 + entries * 8;
    // A multimodal index has one more byte a sequence, which text does not need.
    if (limit != expected && limit != expected + sequences)
      fail("{}: {} sequences and {} document entries make {} bytes, but it has {}: it is {}", index_.path(), sequences,
           entries, expected, limit, limit < expected ? "truncated" : "garbled");
    sequences_ = static_cast<std::int64_t>(sequences);
    documents_ = static_cast<std::int64_t>(entries) - 1;
  }

  TokenType type_of(std::uint8_t code) const {
    switch (code) {
      case 1:
        return TokenType::uint8;
      case 2:
        return TokenType::int8;
      case 3:
        return TokenType::int16;
      case 4:
        return TokenType::int32;
      case 5:
        return TokenType::int64;
      case 8:
        return TokenType::uint16;
      default:
        fail("{}: dtype code {} at byte 17 is not that of whole numbers (1 to 5, or 8): these are not token ids",
             index_.path(), code);
    }
  }

  // The last sequence and document say whether the index belongs to the tokens; `validate` looks at all of them.
  void check_ends() const {
    if (sequences_ == 0 || documents_ < 1)
      fail("{}: it lists {} sequences and {} document entries, but {} has {} tokens", index_.path(), sequences_,
           documents_ + 1, file_.path(), count_);
    const std::int64_t tokens = length(sequences_ - 1), begins = pointer(sequences_ - 1);
    if (begins < 0 || begins > file_.size() || tokens < 0 || begins + tokens * bytes_of(type_) != file_.size())
      fail(
          "{}: the last sequence, of {} {} tokens from byte {}, should end {}, which has {} bytes: truncated, or not "
          "its index",
          index_.path(), tokens, name_of(type_), begins, file_.path(), file_.size());
    const std::int64_t first = document_sequence(0), last = document_sequence(documents_);
    if (first != 0 || last != sequences_)
      fail("{}: documents run from sequence {} to {} instead of 0 to {}", index_.path(), first, last, sequences_);
  }

  std::int64_t length(std::int64_t sequence) const {
    return load_number<std::int32_t>(index_, header + 4 * sequence, "a length");
  }
  std::int64_t pointer(std::int64_t sequence) const {
    return load_number<std::int64_t>(index_, header + 4 * sequences_ + 8 * sequence, "a pointer");
  }
  // The sequence at which a document begins; entry `documents_` is the number of sequences.
  std::int64_t document_sequence(std::int64_t document) const {
    return load_number<std::int64_t>(index_, header + 12 * sequences_ + 8 * document, "a document");
  }

  MappedFile index_;
  std::int64_t sequences_ = 0, documents_ = 0;
};

template <typename T>
void append(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

// Megatron's own tool leaves some room above the vocabulary: narrow_vocabulary.
void finish(const WrittenTokens& written) {
  constexpr std::size_t buffer_bytes = std::size_t{1} << 22;
  const MappedFile ends(written.ends_file);
  const auto end_of = [&](std::int64_t document) {
    return document < 0 ? 0 : static_cast<std::int64_t>(load_number<std::uint64_t>(ends, document * 8, "an end"));
  };
  AtomicFile file(written.prefix + ".idx");
  std::string bytes("MMIDIDX\0\0", 9);
  append(bytes, std::uint64_t{1});
  append(bytes, static_cast<std::uint8_t>(written.width == 2 ? 8 : 4));
  append(bytes, static_cast<std::uint64_t>(written.documents));
  append(bytes, static_cast<std::uint64_t>(written.documents + 1));
  std::int64_t offset = 0;
  const auto put = [&](bool force) {
    if (!force && bytes.size() < buffer_bytes) return;
    file.write_at(offset, bytes.data(), static_cast<std::int64_t>(bytes.size()));
    offset += static_cast<std::int64_t>(bytes.size());
    bytes.clear();
  };
  for (std::int64_t i = 0; i < written.documents; ++i, put(false))
    append(bytes, static_cast<std::int32_t>(end_of(i) - end_of(i - 1)));
  for (std::int64_t i = 0; i < written.documents; ++i, put(false)) append(bytes, end_of(i - 1) * written.width);
  for (std::int64_t i = 0; i <= written.documents; ++i, put(false)) append(bytes, i);
  put(true);
  file.commit();
}

const FormatRegistration megatron(
    {{.name = "megatron", .meaning = "`.bin` with `.idx` beside it", .documents = "by its .idx"},
     {".bin"},
     [](const std::string& path) {
       return std::vector{prefix_of(path) + ".bin", prefix_of(path) + ".idx"};
     },
     [](const std::string& path, const FormatOptions&) -> std::unique_ptr<TokenFile> {
       return std::make_unique<MegatronFile>(path);
     },
     FormatWriter{.ending = ".bin", .narrow_vocabulary = 65499, .finish = finish}});

}  // namespace
}  // namespace longhaul
