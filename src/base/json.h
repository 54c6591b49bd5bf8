// JSON files as users write them: syntax errors and duplicate keys are refused with the file and the line.
#pragma once
#include <filesystem>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace longhaul {

/// The line (from 1) on which each object member's key stands, by JSON pointer ("/layers/0/repeat").
using JsonLines = std::map<std::string, int>;

/// Parses `text`; `origin` (a file name) begins every message. Throws Error on a syntax error, on a key that stands
/// twice in one object, and on nesting deeper than 64. Fills `lines` when it is given.
nlohmann::json parse_json(std::string_view text, const std::string& origin, JsonLines* lines = nullptr);

/// parse_json of a whole file. Throws Error when it cannot be read.
nlohmann::json read_json(const std::filesystem::path& file, JsonLines* lines = nullptr);

/// The bytes of a small text file. Throws Error when it is missing, not a regular file, larger than 64 MiB or
/// unreadable.
std::string read_text_file(const std::filesystem::path& file);

}  // namespace longhaul
