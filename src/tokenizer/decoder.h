// Decoders of tokenizer.json: tokens back to bytes.
#pragma once
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace longhaul {

/// What a decoder's parts have done so far to a text of which more may come.
struct Growth {
  bool fused = false;     ///< the tokens are one by now
  bool piecewise = true;  ///< what a token says depends on whether there is text before it, on nothing else
};

class Decoder {
 public:
  virtual ~Decoder() = default;
  /// Adds what this one does. By default each token is decoded by itself: that of a fused text by all of it.
  virtual void grow(Growth& growth) const { growth.piecewise &= !growth.fused; }
  /// Rewrites the tokens of a text, as the file writes them; joined, the result is the text. Bytes that are no UTF-8
  /// stay as they are.
  virtual void decode(std::vector<std::string>& tokens) const = 0;
};

/// The decoder that an object of the file describes; for null, tokens are joined by spaces. `where` begins messages.
/// Throws Error naming a type or a field that is not supported.
std::unique_ptr<Decoder> read_decoder(const nlohmann::json& object, const std::string& where);

}  // namespace longhaul
