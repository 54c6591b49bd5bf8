// A data format: what `data.format` names, how its files are found and opened. One file each, format_NAME.cpp, which
// registers it; nothing else that reads files knows that it is there (token_writer.h writes three of them). Private to
// src/data.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "config/data_format.h"
#include "data/token_file.h"

namespace longhaul {

/// What opening a file depends on besides the file.
struct FormatOptions {
  std::int64_t vocabulary = 0;
  std::optional<std::int32_t> end_token;  ///< what formats of text add at the end of a document
  bool mask_prompt = false;               ///< tokens of prompts are no labels; only for formats with prompts
  bool last = false;                      ///< no other file follows this one
};

struct FormatReader : DataFormat {
  /// What the names of files in a folder that is given end in.
  std::vector<std::string> endings;
  /// Every file that opening `path` may read, whether it exists or not: first the one that holds the tokens.
  std::vector<std::string> (*files)(const std::string& path);
  /// Maps a file and checks its header, its size and what lies beside it; formats of text are indexed, others not read.
  /// Throws Error naming file and offset.
  std::unique_ptr<TokenFile> (*open)(const std::string& path, const FormatOptions& options);
};

/// Throws Error for a name that is none's, with those that there are.
const FormatReader& find_format(std::string_view name);

/// At namespace scope in format_NAME.cpp.
struct FormatRegistration {
  explicit FormatRegistration(FormatReader reader);
};

/// For `files` of formats that have one file.
std::vector<std::string> only_itself(const std::string& path);

}  // namespace longhaul
