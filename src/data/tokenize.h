// Text files to token files, on several threads.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/token_writer.h"
#include "tokenizer/chat_format.h"
#include "tokenizer/tokenizer.h"

namespace longhaul {

/// What files of text hold: by the ending .jsonl, or as one knows.
enum class TextKind : std::uint8_t { by_name, whole, lines };

struct TokenizeOptions {
  /// Files of text (a file is a document) and, where the name ends in .jsonl, of JSON lines (a line is a document, as
  /// text_line.h says); .gz and .zst behind that for compressed ones.
  std::vector<std::string> files;
  TextKind kind = TextKind::by_name;
  std::string format;  // one of TokenWriter::formats()
  std::string prefix;  // of the output's names
  int threads = 1;
  std::optional<std::int32_t> end_token;  // after every document
  EncodeOptions encode;
  bool mask_prompt = true;           // tokens of a line's prompt are no labels
  const ChatFormat* chat = nullptr;  // how chats are written; null: they are refused
  TrainOn train_on = TrainOn::assistant;
};

struct TokenizeProgress {
  TokenCounts counts;
  std::int64_t empty_documents = 0;
  std::int64_t chats = 0, ignored_tools = 0;   // documents that are chats; chats with tools, which were left out
  std::int64_t text_bytes = 0;                 // decompressed
  std::int64_t file_bytes = 0, all_bytes = 0;  // read of the files, and of all of them
};

/// Tokenizes all files, in order; the output does not depend on the number of threads. Every half minute its state goes
/// to PREFIX.progress.json; the same call after an interruption goes on from there. `report` is called about ten times
/// a second. Throws Error naming file and line; a finished output of the name is not overwritten, nor an unfinished one
/// that was begun with other files or options.
TokenizeProgress tokenize_files(const Tokenizer& tokenizer, const TokenizeOptions& options,
                                const std::function<void(const TokenizeProgress&)>& report);

/// A hash of everything that decides the output: the tokenizer, the files' names, sizes and times, the options.
std::string tokenize_key(const Tokenizer& tokenizer, const TokenizeOptions& options);
/// The part of it that is not of the files.
std::string tokenize_options_key(const Tokenizer& tokenizer, const TokenizeOptions& options);

}  // namespace longhaul
