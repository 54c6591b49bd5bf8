#include "data/tokenize.h"

#include <fmt/ranges.h>
#include <xxhash.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/json.h"
#include "data/ordered_work.h"
#include "data/text_line.h"
#include "io/file.h"
#include "io/input_stream.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// A document as it stands in its file, not looked into.
struct RawDocument {
  std::size_t file = 0;
  std::int64_t line = 0;  // of JSON lines, from 1; 0: the whole file is the document
  std::string bytes;
};

/// What one thread takes at a time: so little that threads end together, so much that handing it over costs nothing.
constexpr std::size_t batch_bytes = std::size_t{256} << 10;

/// Reads the documents of all files in order.
class Reader {
 public:
  Reader(const std::vector<std::string>& files, TextKind kind) : files_(files), kind_(kind) {}

  /// Up to about `bytes` bytes of documents, at least one; none at the end.
  std::vector<RawDocument> next(std::size_t bytes) {
    std::vector<RawDocument> batch;
    std::size_t size = 0;
    while (size < bytes) {
      RawDocument document;
      if (!next_document(document)) break;
      size += document.bytes.size() + 64;
      batch.push_back(std::move(document));
    }
    return batch;
  }
  std::int64_t position() const { return done_bytes_ + (stream_ ? stream_->position() : 0); }

 private:
  bool next_document(RawDocument& document) {
    for (;;) {
      if (!stream_) {
        if (file_ == files_.size()) return false;
        stream_ = open_input(files_[file_]);
        lines_ = kind_ == TextKind::lines ||
                 (kind_ == TextKind::by_name && without_compression(files_[file_]).ends_with(".jsonl"));
        line_ = 0;
        at_ = 0;
        text_.clear();
        ended_ = false;
      }
      document.file = file_;
      const bool found = lines_ ? next_line(document) : whole_file(document);
      if (found) return true;
      done_bytes_ += stream_->position();
      stream_.reset();
      ++file_;
    }
  }
  bool fill() {
    if (ended_) return false;
    text_.erase(0, at_);
    at_ = 0;
    const std::size_t before = text_.size(), more = std::size_t{1} << 20;
    text_.resize(before + more);
    const std::size_t count = stream_->read(text_.data() + before, more);
    text_.resize(before + count);
    ended_ = count == 0;
    return !ended_;
  }
  bool next_line(RawDocument& document) {
    std::size_t end = text_.find('\n', at_);
    while (end == std::string::npos && fill()) end = text_.find('\n', at_);
    if (end == std::string::npos) end = text_.size();
    if (end == at_ && ended_ && at_ == text_.size()) return false;
    ++line_;
    document.line = line_;
    document.bytes = text_.substr(at_, end - at_);
    at_ = std::min(end + 1, text_.size());
    return true;
  }
  bool whole_file(RawDocument& document) {
    if (ended_) return false;
    while (fill()) {
    }
    document.line = 0;
    document.bytes = std::move(text_);
    text_.clear();
    return true;
  }

  const std::vector<std::string>& files_;
  const TextKind kind_;
  std::size_t file_ = 0, at_ = 0;
  std::int64_t line_ = 0, done_bytes_ = 0;
  bool lines_ = false, ended_ = false;
  std::unique_ptr<InputStream> stream_;
  std::string text_;
};

struct Tokens {
  std::vector<std::int32_t> ids;
  std::vector<std::uint8_t> learned;  // empty: all are
  std::int64_t text_bytes = 0;
  bool chat = false, ignored_tools = false;
};

/// What one thread encodes with.
class Worker {
 public:
  Worker(const Tokenizer& tokenizer, const TokenizeOptions& options)
      : tokenizer_(tokenizer), options_(options), encoder_(tokenizer.encoder()) {}

  Tokens tokens_of(const RawDocument& document) {
    Tokens tokens;
    bool end = options_.end_token.has_value();
    if (document.line == 0) {
      tokens.text_bytes = static_cast<std::int64_t>(document.bytes.size());
      if (!document.bytes.empty()) encoder_->encode(document.bytes, options_.encode, tokens.ids);
    } else {
      const std::string where = fmt::format("{}:{}", options_.files[document.file], document.line);
      const TextLine line = read_text_line(document.bytes, where);
      tokens.text_bytes = line.bytes();
      tokens.ignored_tools = line.ignored_tools;
      encode(line, where, tokens);
      // Templates write what ends a chat; ids are taken as they are.
      end = end && line.kind != TextLine::Kind::chat && line.kind != TextLine::Kind::ids;
    }
    if (end && !tokens.ids.empty()) {
      tokens.ids.push_back(*options_.end_token);
      if (!tokens.learned.empty()) tokens.learned.push_back(1);
    }
    return tokens;
  }

 private:
  void encode(const TextLine& line, const std::string& where, Tokens& tokens) {
    switch (line.kind) {
      case TextLine::Kind::blank:
        return;
      case TextLine::Kind::text:
        if (!line.text.empty()) encoder_->encode(line.text, options_.encode, tokens.ids);
        return;
      case TextLine::Kind::prompt: {
        // Prompt and completion are encoded apart: where one ends and the other begins, a token does too.
        if (!line.prompt.empty()) encoder_->encode(line.prompt, options_.encode, tokens.ids);
        if (options_.mask_prompt) tokens.learned.assign(tokens.ids.size(), 0);
        EncodeOptions behind = options_.encode;
        behind.add_special_tokens = behind.add_special_tokens && line.prompt.empty();
        if (!line.text.empty()) encoder_->encode(line.text, behind, tokens.ids);
        if (!tokens.learned.empty()) tokens.learned.resize(tokens.ids.size(), 1);
        return;
      }
      case TextLine::Kind::chat: {
        if (!options_.chat)
          fail(
              "{}: it is a chat, and there is no chat template beside {}; name the format that the model was made for "
              "({})",
              where, tokenizer_.file().string(), fmt::join(ChatFormat::names(), ", "));
        if (!chat_encoder_) chat_encoder_.emplace(tokenizer_, *encoder_);
        tokens.chat = true;
        try {
          chat_encoder_->encode(options_.chat->write(line.messages, options_.train_on), tokens.ids, tokens.learned);
        } catch (const Error& error) {
          fail("{}: {}", where, error.what());
        }
        return;
      }
      case TextLine::Kind::ids:
        for (const std::int32_t id : line.ids)
          if (id >= tokenizer_.vocabulary_size())
            fail("{}: the id {} is no token of {}, whose ids are 0 to {}", where, id, tokenizer_.file().string(),
                 tokenizer_.vocabulary_size() - 1);
        tokens.ids = line.ids;
        tokens.learned = line.learned;
    }
  }

  const Tokenizer& tokenizer_;
  const TokenizeOptions& options_;
  std::unique_ptr<Encoder> encoder_;
  std::optional<ChatEncoder> chat_encoder_;  // made for the first chat
};

/// Documents that lie one behind another, and how far the reader was behind them.
struct Batch {
  std::vector<RawDocument> documents;
  std::int64_t position = 0;
};

}  // namespace

std::string tokenize_options_key(const Tokenizer& tokenizer, const TokenizeOptions& options) {
  return fmt::format("2 {} {} {} {} {} {} {} {} {}", tokenizer.fingerprint(), options.format,
                     options.end_token.value_or(-1), options.encode.special_tokens_in_text,
                     options.encode.add_special_tokens, options.mask_prompt,
                     options.chat ? options.chat->fingerprint() : 0, static_cast<int>(options.train_on),
                     static_cast<int>(options.kind));
}

std::string tokenize_key(const Tokenizer& tokenizer, const TokenizeOptions& options) {
  std::string text = tokenize_options_key(tokenizer, options);
  for (const auto& file : options.files)
    text += fmt::format("\n{} {} {}", file, fs::file_size(file), fs::last_write_time(file).time_since_epoch().count());
  return fmt::format("{:016x}", XXH3_64bits(text.data(), text.size()));
}

TokenizeProgress tokenize_files(const Tokenizer& tokenizer, const TokenizeOptions& options,
                                const std::function<void(const TokenizeProgress&)>& report) {
  if (options.files.empty()) fail("name at least one file of text");
  TokenizeProgress progress;
  for (const auto& file : options.files) {
    if (!fs::is_regular_file(file)) fail("{}: no such file", file);
    progress.all_bytes += static_cast<std::int64_t>(fs::file_size(file));
  }
  const std::string output = TokenWriter::output_file(options.format, options.prefix);
  if (fs::exists(output)) fail("{} exists already; remove it, or write to another prefix", output);
  if (const fs::path folder = fs::path(options.prefix).parent_path(); !folder.empty()) fs::create_directories(folder);
  const std::string state_file = options.prefix + ".progress.json", key = tokenize_key(tokenizer, options);
  std::int64_t documents_done = 0;  // as they stand in the files, empty ones included
  if (fs::exists(state_file)) {
    const json state = read_json(state_file);
    if (state.value("key", "") != key)
      fail(
          "{} is of an unfinished output that was begun with another tokenizer, other files or other options; remove "
          "it to "
          "begin anew",
          state_file);
    documents_done = state.at("documents_read").get<std::int64_t>();
    progress.counts = {state.at("documents").get<std::int64_t>(), state.at("tokens").get<std::int64_t>(),
                       state.at("prompt_tokens").get<std::int64_t>()};
    progress.chats = state.at("chats").get<std::int64_t>();
    progress.ignored_tools = state.at("ignored_tools").get<std::int64_t>();
    progress.empty_documents = state.at("empty_documents").get<std::int64_t>();
    progress.text_bytes = state.at("text_bytes").get<std::int64_t>();
  }
  std::int64_t vocabulary = tokenizer.vocabulary_size();
  if (options.end_token) vocabulary = std::max<std::int64_t>(vocabulary, *options.end_token + 1);
  TokenWriter writer(options.format, options.prefix, vocabulary, tokenizer.file().string(), progress.counts);
  Reader reader(options.files, options.kind);
  std::int64_t to_skip = documents_done;
  const auto read_batch = [&]() -> std::optional<Batch> {
    for (;;) {
      Batch batch{reader.next(batch_bytes), 0};
      batch.position = reader.position();
      if (batch.documents.empty()) return {};
      const auto skipped = std::min(to_skip, static_cast<std::int64_t>(batch.documents.size()));
      to_skip -= skipped;
      batch.documents.erase(batch.documents.begin(), batch.documents.begin() + skipped);
      if (!batch.documents.empty()) return batch;
    }
  };
  const int threads = std::max(1, options.threads);
  std::vector<std::unique_ptr<Worker>> workers;
  for (int i = 0; i < threads; ++i) workers.push_back(std::make_unique<Worker>(tokenizer, options));
  OrderedWork<Batch, std::vector<Tokens>> work(
      threads, static_cast<std::size_t>(2 * threads + 6), read_batch, [&](Batch& batch, int thread) {
        std::vector<Tokens> results;
        results.reserve(batch.documents.size());
        for (const RawDocument& document : batch.documents)
          results.push_back(workers[static_cast<std::size_t>(thread)]->tokens_of(document));
        return results;
      });
  using Clock = std::chrono::steady_clock;
  auto saved = Clock::now(), reported = saved;
  std::int64_t read = documents_done;
  while (const auto done = work.next()) {
    const auto& [batch, results] = *done;
    read += static_cast<std::int64_t>(batch.documents.size());
    progress.file_bytes = batch.position;
    for (const Tokens& tokens : results) {
      progress.text_bytes += tokens.text_bytes;
      progress.chats += tokens.chat;
      progress.ignored_tools += tokens.ignored_tools;
      if (tokens.ids.empty())
        ++progress.empty_documents;
      else
        writer.add(tokens.ids, tokens.learned);
    }
    progress.counts = writer.counts();
    const auto now = Clock::now();
    if (now - reported > std::chrono::milliseconds(100)) {
      report(progress);
      reported = now;
    }
    if (now - saved > std::chrono::seconds(30)) {
      writer.flush();
      write_text_atomically(state_file, json{{"key", key},
                                             {"documents_read", read},
                                             {"documents", progress.counts.documents},
                                             {"tokens", progress.counts.tokens},
                                             {"prompt_tokens", progress.counts.prompt_tokens},
                                             {"chats", progress.chats},
                                             {"ignored_tools", progress.ignored_tools},
                                             {"empty_documents", progress.empty_documents},
                                             {"text_bytes", progress.text_bytes}}
                                            .dump(1));
      saved = now;
    }
  }
  writer.finish();
  fs::remove(state_file);
  report(progress);
  return progress;
}

}  // namespace longhaul
