#include <charconv>
#include <filesystem>
#include <set>

#include "base/json.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/other_files.h"
#include "tokenizer/pipeline.h"
#include "tokenizer/regex.h"
#include "tokenizer/splitter.h"

namespace longhaul {
namespace {

using namespace json_fields;

/// Pieces by a pattern; what it does not match is left out, as tiktoken does.
class PatternSplit : public PreTokenizer {
 public:
  explicit PatternSplit(std::string_view pattern) : splitter_(Splitter::of_pattern(pattern, RegexDialect::rust)) {
    if (!splitter_) regex_ = std::make_unique<Regex>(pattern, RegexDialect::rust);
  }
  void split(Pieces& pieces) const override {
    pieces.spare.clear();
    std::vector<Regex::Match> matches;
    for (const auto& piece : pieces.parts) {
      if (splitter_) {
        splitter_->split(piece, [&](std::string_view one) { pieces.spare.push_back(one); });
        continue;
      }
      regex_->matches(piece, matches);
      for (const auto& match : matches)
        if (match.end > match.begin) pieces.spare.push_back(piece.substr(match.begin, match.end - match.begin));
    }
    std::swap(pieces.parts, pieces.spare);
  }

 private:
  std::optional<Splitter> splitter_;
  std::unique_ptr<Regex> regex_;
};

struct Published {
  std::string_view name;     // of the file without its ending
  std::string_view pattern;  // of Splitter's list
  std::vector<std::pair<std::string, std::int32_t>> special;
};

std::string_view known_pattern(std::size_t which) {
  return Splitter::known_patterns()[which].first;
}

// The patterns by the place they have in Splitter's list, under the names that a companion file may use.
const std::vector<std::pair<std::string_view, std::string_view>>& pattern_names() {
  static const std::vector<std::pair<std::string_view, std::string_view>> names = {
      {"gpt2", known_pattern(0)},        {"llama3", known_pattern(2)},     {"qwen2", known_pattern(3)},
      {"cl100k_base", known_pattern(5)}, {"o200k_base", known_pattern(6)}, {"tekken", known_pattern(7)},
  };
  return names;
}

const std::vector<Published>& published() {
  static const std::vector<Published> list = [] {
    std::vector<Published> all = {
        {"r50k_base", known_pattern(0), {{"<|endoftext|>", 50256}}},
        {"p50k_base", known_pattern(0), {{"<|endoftext|>", 50256}}},
        {"cl100k_base",
         known_pattern(5),
         {{"<|endoftext|>", 100257},
          {"<|fim_prefix|>", 100258},
          {"<|fim_middle|>", 100259},
          {"<|fim_suffix|>", 100260},
          {"<|endofprompt|>", 100276}}},
        {"o200k_base", known_pattern(6), {{"<|endoftext|>", 199999}, {"<|endofprompt|>", 200018}}},
    };
    Published qwen{
        "qwen", known_pattern(3), {{"<|endoftext|>", 151643}, {"<|im_start|>", 151644}, {"<|im_end|>", 151645}}};
    for (int i = 0; i < 205; ++i) qwen.special.emplace_back(fmt::format("<|extra_{}|>", i), 151646 + i);
    all.push_back(std::move(qwen));
    return all;
  }();
  return list;
}

std::vector<std::pair<std::string, std::int32_t>> read_ranks(std::string_view contents, const std::string& path) {
  std::vector<std::pair<std::string, std::int32_t>> ranks;
  std::set<std::int32_t> seen;
  for (std::size_t line = 1; !contents.empty(); ++line) {
    const std::size_t end = std::min(contents.find('\n'), contents.size());
    std::string_view text = contents.substr(0, end);
    contents.remove_prefix(std::min(end + 1, contents.size()));
    if (text.ends_with('\r')) text.remove_suffix(1);
    if (text.empty()) continue;
    const std::size_t space = text.find(' ');
    std::string token;
    std::int32_t rank = -1;
    const bool cut = space != std::string_view::npos && decode_base64(text.substr(0, space), token) && !token.empty();
    const char* last = text.data() + text.size();
    const auto number = cut ? std::from_chars(text.data() + space + 1, last, rank) : std::from_chars_result{};
    if (!cut || number.ec != std::errc() || number.ptr != last || rank < 0)
      fail("{}:{}: not the base64 of a token, a space and its rank", path, line);
    if (!seen.insert(rank).second) fail("{}:{}: the rank {} stands twice", path, line, rank);
    ranks.emplace_back(std::move(token), rank);
  }
  return ranks;
}

}  // namespace

bool looks_like_tiktoken(std::string_view contents) {
  const std::string_view line = contents.substr(0, std::min(contents.find('\n'), contents.size()));
  const std::size_t space = line.find(' ');
  std::string token;
  return space != std::string_view::npos && space > 0 && decode_base64(line.substr(0, space), token) &&
         line.find_first_not_of("0123456789\r", space + 1) == std::string_view::npos;
}

std::unique_ptr<Tokenizer> read_tiktoken_tokenizer(std::string_view contents, const std::string& path) {
  const auto ranks = read_ranks(contents, path);
  std::string pattern;
  std::vector<std::pair<std::string, std::int32_t>> special;
  const std::string companion = path + ".json";
  const std::string stem = std::filesystem::path(path).stem().string();
  const auto found =
      std::find_if(published().begin(), published().end(), [&](const auto& one) { return one.name == stem; });
  if (std::filesystem::exists(companion)) {
    const json file = read_json(companion);
    if (!file.is_object()) fail("{}: not an object", companion);
    for (const auto& [key, value] : file.items())
      if (key != "pattern" && key != "special_tokens")
        fail("{}: the key {} is none of pattern, special_tokens", companion, key);
    pattern = text(file, "pattern", companion);
    for (const auto& [name, one] : pattern_names())
      if (pattern == name) pattern = one;
    if (const json& tokens = member(file, "special_tokens"); !tokens.is_null()) {
      if (!tokens.is_object()) fail("{}: \"special_tokens\" is not an object", companion);
      for (const auto& [token, id] : tokens.items()) {
        if (!id.is_number_integer() || id.get<std::int64_t>() < 0 || id.get<std::int64_t>() > 0x7ffffffe)
          fail("{}: the id of {} is {}", companion, token, id.dump());
        special.emplace_back(token, id.get<std::int32_t>());
      }
    }
  } else if (found != published().end()) {
    pattern = found->pattern;
    special = found->special;
  } else if (ranks.size() == 128000) {  // Llama 3 calls it tokenizer.model
    pattern = known_pattern(2);
    const char* names[] = {"<|begin_of_text|>",
                           "<|end_of_text|>",
                           "<|reserved_special_token_0|>",
                           "<|reserved_special_token_1|>",
                           "<|reserved_special_token_2|>",
                           "<|reserved_special_token_3|>",
                           "<|start_header_id|>",
                           "<|end_header_id|>",
                           "<|reserved_special_token_4|>",
                           "<|eot_id|>"};
    for (std::int32_t i = 0; i < 256; ++i)
      special.emplace_back(i < 10 ? names[i] : fmt::format("<|reserved_special_token_{}|>", i - 5), 128000 + i);
  } else {
    std::string names, patterns;
    for (const auto& one : published()) names += fmt::format("{}{}", names.empty() ? "" : ", ", one.name);
    for (const auto& [name, one] : pattern_names()) patterns += fmt::format("{}{}", patterns.empty() ? "" : ", ", name);
    fail(
        "{}: tiktoken ranks do not say how text is split. Name the file as it was published ({}), or write {} with "
        "{{\"pattern\": P, \"special_tokens\": {{\"<|endoftext|>\": id}}}}, where P is a regular expression or one of "
        "{}",
        path, names, companion, patterns);
  }
  PipelineParts parts;
  parts.pre_tokenizer = std::make_unique<PatternSplit>(pattern);
  parts.model = rank_model(ranks, path);
  parts.decoder = read_decoder(json{{"type", "ByteLevel"}}, path);
  for (const auto& [content, id] : special) {
    AddedTokens::Token token;
    token.content = content;
    token.id = id;
    token.special = true;
    parts.in_text.push_back(token);
    parts.added.push_back({.content = content, .id = id, .special = true});
  }
  return make_pipeline(std::move(parts));
}

}  // namespace longhaul
