// Which file a tokenizer is read from, and what lies beside it.
#include <xxhash.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/json.h"
#include "tokenizer/huggingface.h"
#include "tokenizer/other_files.h"
#include "tokenizer/tokenizer.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// What cannot be looked at (a link in a circle, say) is none: others may have put it beside a model.
bool is_file(const fs::path& path) {
  std::error_code none;
  return fs::is_regular_file(path, none);
}

// A token as tokenizer_config.json and special_tokens_map.json give it: a string, or an object with its content.
std::optional<std::string> token_in(const json& file, const char* key) {
  const auto found = file.find(key);
  if (found == file.end()) return std::nullopt;
  if (found->is_string()) return found->get<std::string>();
  if (found->is_object() && found->contains("content") && (*found)["content"].is_string())
    return (*found)["content"].get<std::string>();
  return std::nullopt;
}

std::optional<std::int32_t> find_role(const Tokenizer& tokenizer, const fs::path& folder, const char* key) {
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    const fs::path path = folder / name;
    if (!is_file(path)) continue;
    const json file = read_json(path);
    if (!file.is_object()) fail("{}: not an object", path.string());
    const auto token = token_in(file, key);
    if (!token) continue;
    const auto id = tokenizer.id_of(*token);
    if (!id) fail("{}: its {} {} is no token of the tokenizer beside it", path.string(), key, *token);
    return id;
  }
  return std::nullopt;
}

}  // namespace

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  std::vector<std::int32_t> ids;
  encoder()->encode(text, options, ids);
  return ids;
}

std::optional<fs::path> tokenizer_file_in(const fs::path& folder) {
  std::error_code none;
  if (!fs::is_directory(folder, none)) return std::nullopt;
  for (const char* name : {"tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"})
    if (is_file(folder / name)) return folder / name;
  std::vector<fs::path> ranks;
  for (const auto& entry : fs::directory_iterator(folder))
    if (is_file(entry.path()) && entry.path().extension() == ".tiktoken") ranks.push_back(entry.path());
  std::sort(ranks.begin(), ranks.end());
  if (ranks.size() > 1)
    fail("{} holds several tiktoken files, {} and {} among them; name the one to use", folder.string(),
         ranks[0].filename().string(), ranks[1].filename().string());
  if (ranks.empty()) return std::nullopt;
  return ranks[0];
}

std::unique_ptr<Tokenizer> load_tokenizer(const fs::path& path) {
  fs::path file = path;
  std::error_code none;
  if (fs::is_directory(path, none)) {
    const auto found = tokenizer_file_in(path);
    if (!found)
      fail("{} holds no tokenizer: neither tokenizer.json nor tokenizer.model nor a .tiktoken file", path.string());
    file = *found;
  }
  const std::string contents = read_text_file(file);
  const std::string name = file.string();
  std::unique_ptr<Tokenizer> tokenizer;
  if (file.extension() == ".json")
    tokenizer = read_huggingface_tokenizer(contents, name);
  else if (looks_like_tiktoken(contents))
    tokenizer = read_tiktoken_tokenizer(contents, name);
  else if (file.extension() == ".model")
    tokenizer = read_sentencepiece_tokenizer(contents, name);
  else
    fail("{} is no tokenizer file: a tokenizer.json, a sentencepiece .model or a .tiktoken file is one", name);
  tokenizer->file_ = file;
  tokenizer->fingerprint_ = XXH3_64bits(contents.data(), contents.size());
  if (const fs::path companion = name + ".json"; file.extension() != ".json" && is_file(companion)) {
    const std::string text = read_text_file(companion);
    tokenizer->fingerprint_ ^= XXH3_64bits_withSeed(text.data(), text.size(), 1);
  }
  const fs::path folder = file.parent_path();
  if (const auto id = find_role(*tokenizer, folder, "bos_token")) tokenizer->bos_ = id;
  if (const auto id = find_role(*tokenizer, folder, "eos_token")) tokenizer->eos_ = id;
  return tokenizer;
}

}  // namespace longhaul
