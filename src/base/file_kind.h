// What a file is that was taken for another kind, by its first bytes.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace longhaul {

/// How many bytes of a file's beginning file_kind looks at, at most.
inline constexpr std::int64_t file_kind_bytes = 64;

/// What the file was taken for. Marks that might begin such a file by chance do not count.
enum class TakenFor : std::uint8_t { weights, text, tokens };

/// What a file is that begins with `head`, and what to do about it: "gzip data; decompress it first". Empty when the
/// bytes say nothing; text, JSON and safetensors files have no mark of their own.
std::string file_kind(std::string_view head, TakenFor expected);

}  // namespace longhaul
