// Decoders of tokenizer.json: tokens back to bytes.
#pragma once
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace longhaul {

class Decoder {
 public:
  virtual ~Decoder() = default;
  /// Rewrites the tokens of a text, as the file writes them; joined, the result is the text. Bytes that are no UTF-8
  /// stay as they are.
  virtual void decode(std::vector<std::string>& tokens) const = 0;
};

/// The decoder that an object of the file describes; for null, tokens are joined by spaces. `where` begins messages.
/// Throws Error naming a type or a field that is not supported.
std::unique_ptr<Decoder> read_decoder(const nlohmann::json& object, const std::string& where);

}  // namespace longhaul
