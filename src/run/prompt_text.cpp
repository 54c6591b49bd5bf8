#include "run/prompt_text.h"

#include <charconv>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/json.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;

// Adds what `config` says; false when it says nothing.
bool add_end_tokens(const nlohmann::json& config, const std::string& where, std::set<std::int32_t>& ends) {
  if (!config.is_object() || !config.contains("eos_token_id")) return false;
  const nlohmann::json& said = config["eos_token_id"];
  if (said.is_null()) return false;
  for (const nlohmann::json& one : said.is_array() ? said : nlohmann::json::array({said})) {
    if (!one.is_number_integer() || one.get<std::int64_t>() < 0 || one.get<std::int64_t>() > 0x7fffffff)
      fail("{}: eos_token_id is {}; allowed is a token id or a list of them", where, said.dump());
    ends.insert(one.get<std::int32_t>());
  }
  return true;
}

}  // namespace

PromptText::PromptText(const fs::path& folder, std::int64_t vocabulary, bool ids) : vocabulary_(vocabulary) {
  if (ids) return;
  if (!folder.empty())
    if (const auto file = tokenizer_file_in(folder)) tokenizer_ = load_tokenizer(*file);
  bytes_ = !tokenizer_ && vocabulary >= 256 && vocabulary <= 512;
}

PromptText::PromptText(const std::optional<fs::path>& tokenizer, std::int64_t vocabulary)
    : tokenizer_(tokenizer ? load_tokenizer(*tokenizer) : nullptr), vocabulary_(vocabulary), bytes_(!tokenizer) {}

std::vector<std::int32_t> PromptText::encode(std::string_view text) const {
  std::vector<std::int32_t> ids;
  if (tokenizer_) {
    ids = tokenizer_->encode(text, {.special_tokens_in_text = true, .add_special_tokens = true});
  } else if (bytes_) {
    for (const char one : text) ids.push_back(static_cast<unsigned char>(one));
  } else {
    for (std::size_t at = 0; at < text.size();) {
      if (text[at] == ' ' || text[at] == ',' || text[at] == '\n') {
        ++at;
        continue;
      }
      std::int32_t id = 0;
      const auto [end, error] = std::from_chars(text.data() + at, text.data() + text.size(), id);
      const auto next = static_cast<std::size_t>(end - text.data());
      if (error != std::errc() || (next < text.size() && text[next] != ' ' && text[next] != ',' && text[next] != '\n'))
        fail(
            "the prompt '{}' is not token ids, as \"1 2 3\"; it would be text if a tokenizer lay beside the model, or "
            "bytes "
            "of a vocabulary of 256 to 512 (it is {}), and without --ids",
            text, vocabulary_);
      ids.push_back(id);
      at = next;
    }
  }
  if (ids.empty()) fail("the prompt '{}' is no token; give at least one", text);
  for (const std::int32_t id : ids)
    if (id < 0 || id >= vocabulary_)
      fail("the prompt has token {}, which is outside the model's vocabulary of {}{}", id, vocabulary_,
           tokenizer_ ? ": the tokenizer " + tokenizer_->file().string() + " does not belong to it" : "");
  return ids;
}

std::string PromptText::decode(std::span<const std::int32_t> ids) const {
  if (tokenizer_) {
    // A vocabulary may be padded beyond its tokenizer's.
    std::vector<std::int32_t> known;
    for (const std::int32_t id : ids)
      if (id < tokenizer_->vocabulary_size()) known.push_back(id);
    return tokenizer_->decode(known);
  }
  std::string text;
  for (const std::int32_t id : ids) {
    if (!bytes_)
      text += (text.empty() ? "" : " ") + std::to_string(id);
    else if (id < 256)
      text += static_cast<char>(id);
  }
  return text;
}

std::string PromptText::description() const {
  if (tokenizer_) return tokenizer_->file().string() + " (" + tokenizer_->description() + ")";
  return bytes_ ? "bytes (there is no tokenizer)" : "token ids";
}

std::optional<std::int32_t> PromptText::end() const {
  if (tokenizer_) return tokenizer_->eos();
  if (bytes_ && vocabulary_ > 256) return 256;
  return std::nullopt;
}

std::set<std::int32_t> end_tokens(const fs::path& folder, const std::string& config_text,
                                  std::optional<std::int32_t> otherwise) {
  std::set<std::int32_t> ends;
  const fs::path file = folder / "generation_config.json";
  std::error_code none;
  if (!folder.empty() && fs::exists(file, none) && add_end_tokens(read_json(file), file.string(), ends)) return ends;
  if (!config_text.empty() && add_end_tokens(nlohmann::json::parse(config_text, nullptr, false), "config.json", ends))
    return ends;
  if (otherwise) ends.insert(*otherwise);
  return ends;
}

}  // namespace longhaul
