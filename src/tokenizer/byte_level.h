// GPT-2's alphabet: every byte as a printable character, so that vocabularies are text.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace longhaul {

/// The character of each byte.
const std::array<char32_t, 256>& byte_characters();
/// The bytes that a string of the alphabet stands for; nothing when one of its characters is not of the alphabet.
std::optional<std::string> bytes_of_characters(std::string_view text);
/// Appends the characters of `bytes`.
void append_byte_characters(std::string_view bytes, std::string& text);

}  // namespace longhaul
