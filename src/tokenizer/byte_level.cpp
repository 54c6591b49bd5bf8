#include "tokenizer/byte_level.h"

#include "tokenizer/unicode.h"

namespace longhaul {

const std::array<char32_t, 256>& byte_characters() {
  // Printable Latin-1 stands for itself; the others are numbered from U+0100 on.
  static const auto table = [] {
    std::array<char32_t, 256> characters{};
    char32_t next = 0x100;
    for (unsigned byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
      characters[byte] = printable ? byte : next++;
    }
    return characters;
  }();
  return table;
}

std::optional<std::string> bytes_of_characters(std::string_view text) {
  static const auto bytes_by_character = [] {
    std::array<std::int16_t, 0x144> table;
    table.fill(-1);
    for (unsigned byte = 0; byte < 256; ++byte) table[byte_characters()[byte]] = static_cast<std::int16_t>(byte);
    return table;
  }();
  std::string bytes;
  for (const char *at = text.data(), *end = at + text.size(); at < end;) {
    const char32_t c = next_code_point(at);
    if (c >= bytes_by_character.size() || bytes_by_character[c] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(bytes_by_character[c]));
  }
  return bytes;
}

void append_byte_characters(std::string_view bytes, std::string& text) {
  for (char byte : bytes) append_utf8(text, byte_characters()[static_cast<unsigned char>(byte)]);
}

}  // namespace longhaul
