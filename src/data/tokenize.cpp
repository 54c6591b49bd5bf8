#include "data/tokenize.h"

#include <xxhash.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <filesystem>
#include <future>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"
#include "base/json.h"
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

/// Reads the documents of all files in order.
class Reader {
 public:
  explicit Reader(const std::vector<std::string>& files) : files_(files) {}

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
        lines_ = without_compression(files_[file_]).ends_with(".jsonl");
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
  std::size_t file_ = 0, at_ = 0;
  std::int64_t line_ = 0, done_bytes_ = 0;
  bool lines_ = false, ended_ = false;
  std::unique_ptr<InputStream> stream_;
  std::string text_;
};

struct Text {
  std::string prompt, learned;
  bool any = false;
};

/// What a line of JSON stands for. `where` begins messages.
Text read_line(const std::string& bytes, const std::string& where) {
  Text text;
  if (bytes.find_first_not_of(" \t\r\n") == std::string::npos) return text;
  json line;
  try {
    line = json::parse(bytes.starts_with("\xef\xbb\xbf") ? bytes.substr(3) : bytes);
  } catch (const json::exception& error) {
    fail("{}: not valid JSON: {}", where, error.what());
  }
  if (!line.is_object()) fail("{}: the line must be an object", where);
  const auto field = [&](const char* name) -> const std::string* {
    const auto found = line.find(name);
    if (found == line.end()) return nullptr;
    if (!found->is_string()) fail("{}: the field {} must be a string", where, name);
    return &found->get_ref<const std::string&>();
  };
  const auto *plain = field("text"), *prompt = field("prompt"), *completion = field("completion");
  if (plain && (prompt || completion))
    fail("{}: it has both text and {}; a line is either a text or a prompt with its completion", where,
         prompt ? "prompt" : "completion");
  if (!plain && !(prompt && completion))
    fail("{}: it has neither text nor both prompt and completion{}", where,
         line.contains("messages") ? "; chats (messages) are not supported" : "");
  text.any = true;
  if (prompt) text.prompt = *prompt;
  text.learned = plain ? *plain : *completion;
  return text;
}

struct Tokens {
  std::vector<std::int32_t> ids;
  std::int64_t prompt = 0, text_bytes = 0;
};

Tokens tokens_of(Encoder& encoder, const RawDocument& document, const TokenizeOptions& options) {
  Tokens tokens;
  if (document.line == 0) {
    tokens.text_bytes = static_cast<std::int64_t>(document.bytes.size());
    if (!document.bytes.empty()) encoder.encode(document.bytes, options.encode, tokens.ids);
  } else {
    const Text text = read_line(document.bytes, fmt::format("{}:{}", options.files[document.file], document.line));
    tokens.text_bytes = static_cast<std::int64_t>(text.prompt.size() + text.learned.size());
    // Prompt and completion are encoded apart: where one ends and the other begins, a token does too.
    if (!text.prompt.empty()) {
      encoder.encode(text.prompt, options.encode, tokens.ids);
      tokens.prompt = static_cast<std::int64_t>(tokens.ids.size());
    }
    if (!text.learned.empty()) {
      EncodeOptions learned = options.encode;
      learned.add_special_tokens = learned.add_special_tokens && text.prompt.empty();
      encoder.encode(text.learned, learned, tokens.ids);
    }
  }
  if (options.end_token && !tokens.ids.empty()) tokens.ids.push_back(*options.end_token);
  return tokens;
}

/// Encoders, one a thread, that work through a batch together.
class Workers {
 public:
  Workers(const Tokenizer& tokenizer, int threads) {
    for (int i = 0; i < threads; ++i) encoders_.push_back(tokenizer.encoder());
  }
  std::vector<Tokens> run(const std::vector<RawDocument>& batch, const TokenizeOptions& options) {
    std::vector<Tokens> results(batch.size());
    // Of several documents that fail, the first is reported, as one thread alone would.
    std::atomic<std::size_t> next{0};
    std::mutex mutex;
    std::size_t failed = batch.size();
    std::exception_ptr error;
    const auto work = [&](Encoder& encoder) {
      for (;;) {
        const std::size_t i = next.fetch_add(1);
        if (i >= batch.size()) return;
        try {
          results[i] = tokens_of(encoder, batch[i], options);
        } catch (...) {
          const std::lock_guard lock(mutex);
          if (i < failed) {
            failed = i;
            error = std::current_exception();
          }
        }
      }
    };
    std::vector<std::thread> threads;
    for (std::size_t i = 1; i < encoders_.size(); ++i) threads.emplace_back([&, i] { work(*encoders_[i]); });
    work(*encoders_[0]);
    for (auto& thread : threads) thread.join();
    if (error) std::rethrow_exception(error);
    return results;
  }

 private:
  std::vector<std::unique_ptr<Encoder>> encoders_;
};

}  // namespace

std::string tokenize_key(const Tokenizer& tokenizer, const TokenizeOptions& options) {
  std::string text =
      fmt::format("1 {} {} {} {} {}", tokenizer.fingerprint(), options.format, options.end_token.value_or(-1),
                  options.encode.special_tokens_in_text, options.encode.add_special_tokens);
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
    progress.empty_documents = state.at("empty_documents").get<std::int64_t>();
    progress.text_bytes = state.at("text_bytes").get<std::int64_t>();
  }
  std::int64_t vocabulary = tokenizer.vocabulary_size();
  if (options.end_token) vocabulary = std::max<std::int64_t>(vocabulary, *options.end_token + 1);
  TokenWriter writer(options.format, options.prefix, vocabulary, tokenizer.file().string(), progress.counts);
  Reader reader(options.files);
  Workers workers(tokenizer, std::max(1, options.threads));
  using Clock = std::chrono::steady_clock;
  auto saved = Clock::now(), reported = saved;
  constexpr std::size_t batch_bytes = std::size_t{8} << 20;
  std::int64_t read = 0;
  // The next batch is read while this one is encoded.
  const auto read_batch = [&] { return std::pair(reader.next(batch_bytes), reader.position()); };
  auto coming = std::async(std::launch::async, read_batch);
  for (;;) {
    auto [batch, position] = coming.get();
    if (batch.empty()) break;
    coming = std::async(std::launch::async, read_batch);
    progress.file_bytes = position;
    const auto count = static_cast<std::int64_t>(batch.size());
    const std::int64_t skipped = std::clamp<std::int64_t>(documents_done - read, 0, count);
    read += count;
    batch.erase(batch.begin(), batch.begin() + skipped);
    for (const Tokens& tokens : workers.run(batch, options)) {
      progress.text_bytes += tokens.text_bytes;
      if (tokens.ids.empty())
        ++progress.empty_documents;
      else
        writer.add(tokens.ids, tokens.prompt);
    }
    progress.counts = writer.counts();
    const auto now = Clock::now();
    if (now - reported > std::chrono::milliseconds(100)) {
      report(progress);
      reported = now;
    }
    if (now - saved > std::chrono::seconds(30) && read >= documents_done) {
      writer.flush();
      write_text_atomically(state_file, json{{"key", key},
                                             {"documents_read", read},
                                             {"documents", progress.counts.documents},
                                             {"tokens", progress.counts.tokens},
                                             {"prompt_tokens", progress.counts.prompt_tokens},
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
