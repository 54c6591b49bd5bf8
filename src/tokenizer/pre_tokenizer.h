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
  /// Begins anew with one piece; `at_start`: it begins where the whole text does. `text` must outlive the use.
  void reset(std::string_view text, bool at_start);

  std::vector<std::string_view> parts;
  bool at_start = false;  // the first piece begins where the whole text does
  bool escaped = false;   // the text holds escaped bytes (unicode.h)
  /// Room of `size` bytes that lasts until the next reset.
  char* room(std::size_t size);
  std::vector<std::string_view> spare;  // of a stage that makes more pieces

 private:
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
