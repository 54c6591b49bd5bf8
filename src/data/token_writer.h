// Token files that training reads, written document by document.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace longhaul {

struct FormatWriter;

/// How far an output is.
struct TokenCounts {
  std::int64_t documents = 0, tokens = 0;
  std::int64_t prompt_tokens = 0;  // tokens that are no labels
  bool operator==(const TokenCounts&) const = default;
};

/// Writes any format that is registered with a FormatWriter (format.h). Until finish() everything lies under names that
/// end in .partial.
class TokenWriter {
 public:
  /// `vocabulary` decides how wide a token is; `tokenizer` is named in metadata. `from`: what partial files of an
  /// earlier writer hold for certain; they are cut to it. Throws Error: an unknown format, files that cannot be written
  /// or are shorter than `from` says.
  TokenWriter(std::string format, std::string prefix, std::int64_t vocabulary, std::string tokenizer, TokenCounts from);
  TokenWriter(const TokenWriter&) = delete;
  ~TokenWriter();

  /// One document; a token whose byte of `learned` is 0 is no label (empty: all are labels). Throws Error: for such
  /// tokens in a format that has no place to say so, for too many tokens, on a full disk.
  void add(std::span<const std::int32_t> tokens, std::span<const std::uint8_t> learned);
  /// Makes everything added so far durable.
  void flush();
  /// Writes what a format has at its ends and gives the files their names. Throws Error when there are no tokens.
  void finish();

  const TokenCounts& counts() const { return counts_; }
  /// The formats that there are, by name.
  static std::vector<std::string> formats();
  /// The file with the tokens: PREFIX.bin or PREFIX.ds.
  static std::string output_file(const std::string& format, const std::string& prefix);

 private:
  struct Part {
    std::string path, buffer;
    int descriptor = -1;
    std::int64_t written = 0;  // bytes in the file
  };
  void open(Part& part, const std::string& path, std::int64_t bytes);
  void write(Part& part);

  std::string format_, prefix_, tokenizer_;
  const FormatWriter& traits_;
  int width_;
  TokenCounts counts_;
  Part tokens_, ends_, loss_;
};

}  // namespace longhaul
