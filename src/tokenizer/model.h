// Models of tokenizer files: one piece of text to ids.
#pragma once
#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace longhaul {

/// One thread's encoder of pieces.
class PieceEncoder {
 public:
  virtual ~PieceEncoder() = default;
  /// Appends the ids of a piece that is not empty: bytes where the model was made for bytes, else valid UTF-8.
  /// `escaped`: it may hold escaped bytes (unicode.h).
  virtual void encode(std::string_view piece, bool escaped, std::vector<std::int32_t>& ids) = 0;
};

/// A vocabulary as the file writes it. Const members may be called from several threads.
class Model {
 public:
  virtual ~Model() = default;
  virtual std::unique_ptr<PieceEncoder> encoder() const = 0;
  virtual std::string description() const = 0;

  std::optional<std::int32_t> id_of(const std::string& token) const {
    const auto found = ids_.find(token);
    return found == ids_.end() ? std::nullopt : std::optional(found->second);
  }
  const std::unordered_map<std::string, std::int32_t>& ids() const { return ids_; }

 protected:
  std::unordered_map<std::string, std::int32_t> ids_;  // by the token as it is written
};

/// BPE and Unigram of a tokenizer.json. `of_bytes`: pieces are bytes and the vocabulary is in ByteLevel's alphabet.
/// `where`
/// ("FILE: model") begins messages. Throws Error naming a type or a field that is not supported, or a garbled
/// vocabulary.
std::unique_ptr<Model> read_model(const nlohmann::json& object, bool of_bytes, const std::string& where);
std::unique_ptr<Model> read_bpe(const nlohmann::json& object, bool of_bytes, const std::string& where);
std::unique_ptr<Model> read_unigram(const nlohmann::json& object, const std::string& where);

/// BPE of tiktoken: tokens are bytes, a token's rank is its id, and any two neighbours whose bytes together are a token
/// merge. Throws Error when a byte is no token, or a token stands twice.
std::unique_ptr<Model> rank_model(const std::vector<std::pair<std::string, std::int32_t>>& ranks,
                                  const std::string& where);

}  // namespace longhaul
