// Pre-tokenizers of tokenizer.json: text to the pieces that the model encodes one by one.
#pragma once
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace longhaul {

/// The pieces of one stretch of text, and room for those that are not parts of it. One thread's own, used again and
/// again.
class Pieces {
 public:
  /// Begins anew with one piece; `first_bytes`: so much of it is what the normalizer made of the whole text's first
  /// character, 0 when it does not begin where the text does. `text` must outlive the use.
  void reset(std::string_view text, std::size_t first_bytes);
  /// Whether a piece, the i-th, begins where the whole text does: as offsets into the text before normalizers have it,
  /// so that several may, when the first character became several.
  bool first(std::string_view piece, std::size_t i) const {
    return (i == 0 && at_start) || (piece.data() >= text_.data() && piece.data() < text_.data() + first_bytes_);
  }

  std::vector<std::string_view> parts;
  bool at_start = false;  // the first piece does, wherever its bytes lie
  bool escaped = false;   // the text holds escaped bytes (unicode.h)
  /// Room of `size` bytes that lasts until the next reset.
  char* room(std::size_t size);
  std::vector<std::string_view> spare;  // of a stage that makes more pieces

 private:
  std::string_view text_;
  std::size_t first_bytes_ = 0;
  std::vector<std::unique_ptr<char[]>> blocks_;
  std::size_t block_ = 0, used_ = 0;
  std::vector<std::size_t> sizes_;
};

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  /// Replaces the pieces by finer ones; empty pieces are left out. Const and thread-safe.
  virtual void split(Pieces& pieces) const = 0;
};

/// The pre-tokenizer that an object of the file describes; null for null. `leaves_bytes` says whether its pieces are
/// bytes as they are: ByteLevel came last, and its characters are for the model to think of. `where` begins messages.
/// Throws Error naming a type or a field that is not supported.
std::unique_ptr<PreTokenizer> read_pre_tokenizer(const nlohmann::json& object, const std::string& where,
                                                 bool& leaves_bytes);

}  // namespace longhaul
