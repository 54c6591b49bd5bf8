#include "run/text_tokens.h"

#include <xxhash.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/host.h"
#include "base/json.h"
#include "base/log.h"
#include "comm/exchange.h"
#include "config/data_format.h"
#include "data/expand_files.h"
#include "data/tokenize.h"
#include "io/file.h"
#include "run/agreement.h"
#include "run/data_groups.h"
#include "run/run_lock.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

std::optional<ChatFormat> chat_format(const Experiment& experiment, const fs::path& tokenizer, bool tell) {
  if (experiment.data.chat_format != ChatFormatName::automatic)
    return ChatFormat::named(ChatFormat::names()[static_cast<std::size_t>(experiment.data.chat_format) - 1]);
  try {
    return ChatFormat::of_folder(tokenizer.parent_path());
  } catch (const Error& error) {
    if (tell) log_warn("{}; data with chats will be refused (data.chat_format names a format)", error.what());
    return std::nullopt;
  }
}

// The token after every document.
std::optional<std::int32_t> end_token(const Experiment& experiment, const Tokenizer& tokenizer) {
  if (!experiment.data.eos_token) return tokenizer.eos();
  if (*experiment.data.eos_token < 0) return std::nullopt;
  return static_cast<std::int32_t>(*experiment.data.eos_token);
}

bool is_text(const DataGroup& group) {
  return data_format(group.format).text;
}

/// One group of files, tokenized by this rank unless it was before. Returns the file of tokens.
class Maker {
 public:
  Maker(const RunSetup& setup, const fs::path& file, std::function<void()> alive)
      : setup_(setup),
        tokenizer_(load_tokenizer(file)),
        chat_(chat_format(setup.experiment, tokenizer_->file(), true)),
        folder_(setup.tokens_folder),
        alive_(std::move(alive)) {
    make_folders(folder_.string());
    lock_.emplace(folder_.string());
  }

  fs::path make(const DataGroup& group) {
    const Experiment& experiment = setup_.experiment;
    const std::string& key = group.key;
    TokenizeOptions options;
    std::vector<std::string> names;
    for (const auto& one : group.files) names.push_back(one.string());
    options.files = expand_files(names, group.format);
    options.kind = data_format(group.format).prompts ? TextKind::lines : TextKind::whole;
    options.format = "datatrove";
    options.threads = usable_cores();
    options.end_token = end_token(experiment, *tokenizer_);
    options.mask_prompt = group.mask_prompt;
    options.chat = chat_ ? &*chat_ : nullptr;
    options.train_on = group.train_on;
    std::string made_by = tokenize_options_key(*tokenizer_, options);
    for (const auto& file : options.files) made_by += ' ' + sampled_hash(file, 256);
    const std::string hash = fmt::format("{:016x}", XXH3_64bits(made_by.data(), made_by.size()));
    options.prefix = (folder_ / hash).string();
    const fs::path tokens = TokenWriter::output_file(options.format, options.prefix), facts = options.prefix + ".json";
    if (!fs::exists(tokens) || !fs::exists(facts)) {
      if (fs::exists(tokens)) fs::remove(tokens);
      write(key, options, tokens, facts);
    } else {
      log_info("{}: tokens of {} are there already: {}", key, tokenizer_->file().string(), tokens.string());
    }
    const nlohmann::json counts = read_json(facts);
    if (group.mask_prompt && counts.at("no_labels").get<std::int64_t>() == 0)
      fail(
          "{}: data.mask_prompt is true, but no line has a prompt, so it would mask nothing; give lines prompt and "
          "completion, or set data.mask_prompt to false",
          key);
    return tokens;
  }

 private:
  void write(const std::string& key, const TokenizeOptions& options, const fs::path& tokens, const fs::path& facts) {
    log_info("{}: {} becomes tokens by {} ({}), on {} threads{}", key,
             options.files.size() == 1 ? options.files[0] : fmt::format("{} files", options.files.size()),
             tokenizer_->file().string(), tokenizer_->description(), options.threads,
             chat_ ? fmt::format("; chats as {}", chat_->name()) : "");
    // What a killed run left is gone on with, unless the files were touched since.
    const std::string unfinished = options.prefix + ".progress.json";
    if (fs::exists(unfinished) && read_json(unfinished).value("key", "") != tokenize_key(*tokenizer_, options))
      fs::remove(unfinished);
    const auto begin = Clock::now();
    auto told = begin, shown = begin;
    const TokenizeProgress done = tokenize_files(*tokenizer_, options, [&](const TokenizeProgress& progress) {
      const auto now = Clock::now();
      if (now - told > std::chrono::seconds(1)) {
        alive_();
        told = now;
      }
      if (now - shown > std::chrono::seconds(10)) {
        log_info("{}: {} of {} bytes, {} tokens", key, progress.file_bytes, progress.all_bytes, progress.counts.tokens);
        shown = now;
      }
    });
    log_info("{}: {} documents, {} tokens ({} of them no labels), {} chats, in {:.1f} s: {}", key,
             done.counts.documents, done.counts.tokens, done.counts.prompt_tokens, done.chats,
             std::chrono::duration<double>(Clock::now() - begin).count(), tokens.string());
    if (done.empty_documents > 0) log_info("{}: {} empty documents are left out", key, done.empty_documents);
    if (done.ignored_tools > 0)
      log_warn("{}: {} chats have tools; tools, calls without text and their answers were left out", key,
               done.ignored_tools);
    write_text_atomically(facts.string(), nlohmann::json{{"tokenizer", tokenizer_->file().string()},
                                                         {"files", options.files},
                                                         {"documents", done.counts.documents},
                                                         {"tokens", done.counts.tokens},
                                                         {"no_labels", done.counts.prompt_tokens},
                                                         {"chats", done.chats}}
                                                  .dump(1) +
                                              "\n");
  }

  const RunSetup& setup_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::optional<ChatFormat> chat_;
  fs::path folder_;
  std::function<void()> alive_;
  std::optional<RunLock> lock_;
};

}  // namespace

std::optional<fs::path> text_tokenizer(const RunSetup& setup) {
  const Experiment& experiment = setup.experiment;
  const std::vector<DataGroup> groups = data_groups(experiment);
  const auto text = std::find_if(groups.begin(), groups.end(), is_text);
  if (text == groups.end() || experiment.data.tokenizer == "bytes") return std::nullopt;
  if (experiment.data.tokenizer != "auto") return experiment.data.tokenizer;
  const fs::path folder = setup.model.file.parent_path();
  if (const auto found = tokenizer_file_in(folder)) return found;
  const std::int64_t vocabulary = setup.model.spec.vocabulary;
  if (vocabulary >= 256 && vocabulary <= 512) return std::nullopt;
  fail(
      "{}: the format is {} and data.tokenizer auto, but {} holds no tokenizer and the model's vocabulary is {}: byte "
      "values 0 to 255 would be {}. Name the model's tokenizer (data.tokenizer: FOLDER), or token files made with it "
      "(longhaul tokenize), or set data.tokenizer: bytes to train on bytes all the same",
      text->key, text->format, folder.empty() ? "." : folder.string(), vocabulary,
      vocabulary < 256 ? "too many for it" : "taken for its first 256 words");
}

TextReading text_reading(const RunSetup& setup) {
  const Experiment& experiment = setup.experiment;
  const std::vector<DataGroup> groups = training_groups(experiment);
  if (std::none_of(groups.begin(), groups.end(), is_text)) return {};
  const auto file = text_tokenizer(setup);
  if (!file) return {"bytes", "bytes"};
  const auto tokenizer = load_tokenizer(*file);
  const bool chats = std::any_of(groups.begin(), groups.end(), [](const DataGroup& group) {
    return is_text(group) && data_format(group.format).prompts;
  });
  const auto format = chats ? chat_format(experiment, tokenizer->file(), false) : std::nullopt;
  const std::string made_by = fmt::format("{} {} {}", tokenizer->fingerprint(), format ? format->fingerprint() : 0,
                                          end_token(experiment, *tokenizer).value_or(-1));
  return {tokenizer->file().string(), fmt::format("{:016x}", XXH3_64bits(made_by.data(), made_by.size()))};
}

std::optional<fs::path> data_tokenizer(const RunSetup& setup, const std::string& key) {
  const Experiment& experiment = setup.experiment;
  const std::vector<DataGroup> groups = data_groups(experiment);
  if (std::any_of(groups.begin(), groups.end(), [](const DataGroup& group) { return data_format(group.format).text; }))
    return text_tokenizer(setup);
  if (experiment.data.tokenizer == "bytes") return std::nullopt;
  if (experiment.data.tokenizer != "auto") return experiment.data.tokenizer;
  if (const auto found = tokenizer_file_in(setup.model.file.parent_path())) return found;
  fail(
      "{} needs a tokenizer: the data are token files, data.tokenizer is auto and none lies beside {}; name the one "
      "that "
      "made them (data.tokenizer: FOLDER, or bytes)",
      key, setup.model.file.string());
}

void tokenize_texts(Communicator& world, RunSetup& setup) {
  if (data_groups(setup.experiment).empty()) return;
  std::optional<fs::path> file;
  phase(world, [&] {
    file = text_tokenizer(setup);
    if (world.rank() == 0) setup.text = text_reading(setup);
  });
  setup.text = {broadcast_text(world, setup.text.tokenizer), broadcast_text(world, setup.text.key)};
  if (!file) return;
  std::vector<DataGroup> groups = data_groups(setup.experiment);
  std::erase_if(groups, std::not_fn(is_text));
  // While rank 0 works the others hear from it, so that nobody takes it for lost.
  constexpr int working = 0, ended = 1;
  std::string failure;
  std::vector<fs::path> made(groups.size());
  if (world.rank() == 0) {
    failure = failure_of([&] {
      Maker maker(setup, *file, [&] { broadcast(world, working); });
      for (std::size_t i = 0; i < groups.size(); ++i) made[i] = maker.make(groups[i]);
    });
    broadcast(world, ended);
  } else {
    while (broadcast(world, working) != ended) {
    }
  }
  agree(world, failure);
  for (std::size_t i = 0; i < groups.size(); ++i)
    setup.token_files[groups[i].key] = broadcast_text(world, made[i].string());
}

}  // namespace longhaul
