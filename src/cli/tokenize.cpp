// longhaul tokenize
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>

#include "base/error.h"
#include "base/host.h"
#include "base/log.h"
#include "cli/command.h"
#include "data/tokenize.h"

namespace longhaul::cli {
namespace {

double megabytes(std::int64_t bytes) {
  return static_cast<double>(bytes) / 1e6;
}

}  // namespace

std::function<int()> add_tokenize(CLI::App& app) {
  struct Arguments {
    std::filesystem::path tokenizer;
    TokenizeOptions options;
    std::string end_token = "auto", chat_format = "auto";
  };
  auto arguments = std::make_shared<Arguments>();
  TokenizeOptions& options = arguments->options;
  options.threads = 0;
  app.add_option("--tokenizer", arguments->tokenizer,
                 "a tokenizer.json, sentencepiece .model or .tiktoken file, or a folder that holds one")
      ->required();
  app.add_option("--format", options.format, fmt::format("one of {}", fmt::join(TokenWriter::formats(), ", ")))
      ->required()
      ->check(CLI::IsMember(TokenWriter::formats()));
  app.add_option("-o,--output", options.prefix, "what the names of the output begin with")->required();
  app.add_option("--threads", options.threads, "threads (default: all cores)")->check(CLI::Range(1, 4096));
  app.add_option("--eos", arguments->end_token,
                 "the token after every document: auto (the tokenizer's), none, an id, or a token as it is written");
  app.add_flag("--special-tokens", options.encode.special_tokens_in_text,
               "special tokens that stand in the text become their ids; otherwise they are text");
  app.add_flag("--add-special-tokens", options.encode.add_special_tokens,
               "add what the tokenizer's post-processor adds around a text");
  app.add_option(
      "--chat-format", arguments->chat_format,
      "how chats are written: auto (the chat template beside the tokenizer), chatml, llama-3, mistral, gemma or "
      "phi-3");
  const std::map<std::string, TrainOn> train_on = {
      {"assistant", TrainOn::assistant}, {"last", TrainOn::last}, {"all", TrainOn::all}};
  app.add_option("--train-on", options.train_on,
                 "what of a chat is learned: assistant (its turns), last (its last turn) or all")
      ->transform(CLI::CheckedTransformer(train_on));
  app.add_option("files", options.files, "text (.txt: a file is a document) or JSON lines (.jsonl), also .gz and .zst")
      ->required();
  return [arguments] {
    TokenizeOptions asked = arguments->options;
    if (asked.threads == 0) asked.threads = usable_cores();
    const auto tokenizer = load_tokenizer(arguments->tokenizer);
    const std::string& end = arguments->end_token;
    if (end == "auto") {
      asked.end_token = tokenizer->eos();
    } else if (end != "none") {
      asked.end_token = tokenizer->id_of(end);
      if (!asked.end_token && end.find_first_not_of("0123456789") == std::string::npos && end.size() < 10)
        asked.end_token = std::stoi(end);
      if (!asked.end_token) fail("--eos {} is no token of {}", end, tokenizer->file().string());
    }
    log_info("tokenizer {}: {}; {}", tokenizer->file().string(), tokenizer->description(),
             asked.end_token ? fmt::format("{} ends a document", *asked.end_token) : "no token ends a document");
    std::optional<ChatFormat> chat;
    if (arguments->chat_format != "auto") {
      chat.emplace(ChatFormat::named(arguments->chat_format));
    } else {
      try {
        chat = ChatFormat::of_folder(tokenizer->file().parent_path());
      } catch (const Error& error) {
        log_warn("{}; files of chats will be refused", error.what());
      }
    }
    if (chat) {
      log_info("chats are written as {}", chat->name());
      asked.chat = &*chat;
    }
    const bool terminal = ::isatty(STDERR_FILENO) != 0;
    const auto begin = std::chrono::steady_clock::now();
    auto shown = begin;
    const auto done = tokenize_files(*tokenizer, asked, [&](const TokenizeProgress& progress) {
      const auto now = std::chrono::steady_clock::now();
      const double share = progress.all_bytes > 0 ? megabytes(progress.file_bytes) / megabytes(progress.all_bytes) : 1;
      const double seconds = std::chrono::duration<double>(now - begin).count();
      const std::string line = fmt::format(
          "{:3.0f} %  {:.1f} MB  {} documents  {} tokens  {:.1f} MB/s", 100 * share, megabytes(progress.text_bytes),
          progress.counts.documents, progress.counts.tokens, megabytes(progress.text_bytes) / std::max(seconds, 1e-9));
      if (terminal) {
        const auto filled = static_cast<std::size_t>(30 * std::min(1.0, share));
        std::fprintf(stderr, "\r[%s%s] %s ", std::string(filled, '#').c_str(), std::string(30 - filled, ' ').c_str(),
                     line.c_str());
      } else if (now - shown > std::chrono::seconds(10)) {
        log_info("{}", line);
        shown = now;
      }
    });
    if (terminal) std::fputs("\n", stderr);
    log_info(
        "{} documents, {} tokens, {} of them no labels, from {} bytes of text in {:.1f} s; {} empty documents left out",
        done.counts.documents, done.counts.tokens, done.counts.prompt_tokens, done.text_bytes,
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(), done.empty_documents);
    if (done.chats > 0) log_info("{} documents are chats", done.chats);
    if (done.ignored_tools > 0)
      log_warn("{} chats have tools; tools, calls without text and their answers were left out", done.ignored_tools);
    return 0;
  };
}

}  // namespace longhaul::cli
