#include "run/prompt_text.h"

#include <algorithm>
#include <charconv>
#include <iterator>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/json.h"
#include "tokenizer/unicode.h"

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
  std::vector<std::int32_t> known;
  std::copy_if(ids.begin(), ids.end(), std::back_inserter(known), [&](std::int32_t id) { return says(id); });
  if (tokenizer_) return tokenizer_->decode(known);
  std::string text;
  for (const std::int32_t id : known) {
    if (bytes_)
      text += static_cast<char>(id);
    else
      text += (text.empty() ? "" : " ") + std::to_string(id);
  }
  return text;
}

bool PromptText::says(std::int32_t id) const {
  return tokenizer_ ? id < tokenizer_->vocabulary_size() : !bytes_ || id < 256;
}

std::string TextStream::append(std::span<const std::int32_t> ids) {
  std::copy_if(ids.begin(), ids.end(), std::back_inserter(window_), [&](std::int32_t id) { return text_.says(id); });
  std::size_t count = window_.size();
  while (count > 0 && text_.depends_on_neighbours(window_[count - 1])) --count;
  std::string more = tell(count, false);
  forget();
  return more;
}

std::string TextStream::finish() {
  return tell(window_.size(), true);
}

// Of the window's first `count` ids; `all`: half a character too.
std::string TextStream::tell(std::size_t count, bool all) {
  const std::string text = text_.decode(std::span(window_).first(count));
  const std::size_t certain = text.size() - (all ? 0 : unfinished_utf8_suffix(text));
  if (certain <= told_) return "";
  const std::string more = text.substr(told_, certain - told_);
  told_ = certain;
  return more;
}

// Drops the window's beginning once it is long: the rest says what it did, but for how a text begins; what was told of
// it is known where all of it was.
void TextStream::forget() {
  constexpr std::size_t longest = 64, shortest = 8;
  if (window_.size() <= longest || text_.depends_on_neighbours(window_.back()) || text_.decode(window_).size() != told_)
    return;
  for (std::size_t kept = shortest; kept < window_.size(); kept *= 2) {
    std::size_t first = window_.size() - kept;
    while (first > 0 &&
           (text_.depends_on_neighbours(window_[first]) || text_.depends_on_neighbours(window_[first - 1])))
      --first;
    const std::string rest = text_.decode(std::span(window_).subspan(first));
    if (rest.empty()) continue;  // what comes next would begin a text
    window_.erase(window_.begin(), window_.begin() + static_cast<std::ptrdiff_t>(first));
    told_ = rest.size();
    return;
  }
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
