// A data format: what `data.format` names, how its files are found and opened, and what writing them takes beyond the
// ids (token_writer.h). One file each, format_NAME.cpp, which registers it; nothing else that reads or writes files
// knows that it is there. Private to src/data.
#pragma once
#include <cstdint>
#include <functional>
#include <limits>
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
  std::optional<std::int32_t> end_token;    ///< what formats of text add at the end of a document
  bool mask_prompt = false;                 ///< tokens of prompts are no labels; only for formats with prompts
  bool last = false;                        ///< no other file follows this one
  std::optional<std::int64_t> token_bytes;  ///< of an id in headerless files; none: by the vocabulary
};

/// What a writer has written when it finishes: ids of `width` bytes, and beside them the end of every document.
struct WrittenTokens {
  std::string output, prefix;  ///< the file with the ids as it will be called, and what all names begin with
  std::string ends_file;       ///< a uint64 a document; it is removed, unless finish() takes it away
  std::string loss_file;       ///< a byte a token, 0: no label; removed likewise; "": the format has no place for them
  std::string tokenizer;
  int width = 2;
  std::int64_t documents = 0, tokens = 0, no_labels = 0;
  std::function<void(const std::string&)> write_header;  ///< the header_bytes before the ids
};

/// How a format is written: ids of two bytes where the vocabulary allows it, else four, and what stands around them.
struct FormatWriter {
  std::string ending;                      ///< of the file with the ids
  std::int64_t narrow_vocabulary = 65536;  ///< up to which ids take two bytes
  std::int64_t header_bytes = 0;           ///< before the ids, written at the end
  bool loss_mask = false;                  ///< has a place for tokens that are no labels
  std::int64_t most_tokens = std::numeric_limits<std::int64_t>::max();
  /// What else the format has; null: nothing. The files of ids have their names afterwards.
  void (*finish)(const WrittenTokens& written) = nullptr;
};

struct FormatReader : DataFormat {
  /// What the names of files in a folder that is given end in.
  std::vector<std::string> endings;
  /// Every file that opening `path` may read, whether it exists or not: first the one that holds the tokens.
  std::vector<std::string> (*files)(const std::string& path);
  /// Maps a file and checks its header, its size and what lies beside it; formats of text are indexed, others not read.
  /// Throws Error naming file and offset.
  std::unique_ptr<TokenFile> (*open)(const std::string& path, const FormatOptions& options);
  std::optional<FormatWriter> writer = std::nullopt;  ///< none: nothing of ours writes it
};

/// Throws Error for a name that is none's, with those that there are.
const FormatReader& find_format(std::string_view name);

/// Formats that can be written, by name; those with a place for tokens that are no labels.
std::vector<std::string> written_formats(bool with_loss_mask = false);

/// At namespace scope in format_NAME.cpp.
struct FormatRegistration {
  explicit FormatRegistration(FormatReader reader);
};

/// For `files` of formats that have one file.
std::vector<std::string> only_itself(const std::string& path);

}  // namespace longhaul
