// Normalizers of tokenizer.json: text to text, before it is split.
#pragma once
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace longhaul {

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  /// Writes the normalized form of valid UTF-8 to `out` (which `text` does not lie in) and returns true; or returns
  /// false, `out` unspecified, when the text is its own form already.
  virtual bool normalize(std::string_view text, std::string& out) const = 0;
};

/// The normalizer that an object of the file describes; null for null. `where` ("FILE: normalizer") begins messages.
/// Throws Error naming a type or a field that is not supported.
std::unique_ptr<Normalizer> read_normalizer(const nlohmann::json& object, const std::string& where);

/// Precompiled: the character map of a sentencepiece model, as the file holds it in base64. Throws Error when it is
/// garbled.
std::unique_ptr<Normalizer> precompiled_normalizer(std::string_view base64, const std::string& where);

/// Bytes that base64 stands for; false when it is not base64.
bool decode_base64(std::string_view text, std::string& bytes);

}  // namespace longhaul
