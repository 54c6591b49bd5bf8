#include "tokenizer/huggingface.h"

#include <algorithm>
#include <map>

#include "base/json.h"
#include "base/log.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/pipeline.h"
#include "tokenizer/unicode.h"

namespace longhaul {
namespace {

using namespace json_fields;

/// The ids before and after a text.
void read_post_processor(const json& object, const std::string& where, PipelineParts& parts) {
  if (object.is_null()) return;
  const std::string kind = type(object, where);
  if (kind == "ByteLevel") return;  // about offsets only
  if (kind == "Sequence") {
    for (const auto& part : list(object, "processors", where)) read_post_processor(part, where, parts);
    return;
  }
  if (kind != "TemplateProcessing")
    fail("{} asks for {}, which this program does not have; it has TemplateProcessing, ByteLevel and Sequence", where,
         kind);
  const json& tokens = member(object, "special_tokens");
  bool behind = false;
  std::vector<std::int32_t> prefix, suffix;
  for (const auto& piece : list(object, "single", where)) {
    if (piece.is_object() && piece.contains("Sequence")) {
      if (behind || member(piece["Sequence"], "id") != "A")
        fail("{}: the template for a single text holds more than the text once", where);
      behind = true;
      continue;
    }
    if (!piece.is_object() || !piece.contains("SpecialToken"))
      fail("{}: a piece of the template is {}", where, piece.dump());
    const std::string id = text(piece["SpecialToken"], "id", where);
    const json& token = tokens.is_object() ? member(tokens, id.c_str()) : member(json::object(), id.c_str());
    if (!token.is_object()) fail("{}: the template names {}, which special_tokens lacks", where, id);
    for (const auto& one : list(token, "ids", where)) {
      if (!one.is_number_integer()) fail("{}: an id of {} is {}", where, id, one.dump());
      (behind ? suffix : prefix).push_back(one.get<std::int32_t>());
    }
  }
  if (!behind) fail("{}: the template for a single text leaves the text out", where);
  // The template of a later processor goes around what is there.
  parts.prefix.insert(parts.prefix.begin(), prefix.begin(), prefix.end());
  parts.suffix.insert(parts.suffix.end(), suffix.begin(), suffix.end());
}

/// Gives added tokens their ids as the library does: those of the vocabulary, or the next free ones.
void read_added_tokens(const json& file, const std::string& path, PipelineParts& parts) {
  const json& entries = member(file, "added_tokens");
  if (entries.is_null()) return;
  if (!entries.is_array()) fail("{}: \"added_tokens\" is not a list", path);
  const auto vocabulary = static_cast<std::int32_t>(parts.model->ids().size());
  std::map<std::string, std::size_t> placed;  // by content: index in parts.added
  std::int32_t next = vocabulary;
  for (const auto& entry : entries) {
    const std::string where = path + ": added_tokens";
    if (!entry.is_object()) fail("{}: {} is not an object", where, entry.dump());
    AddedTokens::Token token;
    token.content = text(entry, "content", where);
    token.single_word = flag(entry, "single_word", where);
    token.strip_left = flag(entry, "lstrip", where);
    token.strip_right = flag(entry, "rstrip", where);
    token.special = flag(entry, "special", where);
    const bool normalized = flag(entry, "normalized", where, true);
    if (token.content.empty()) continue;
    if (placed.contains(token.content)) fail("{}: {} stands twice", where, token.content);
    const auto known = parts.model->id_of(token.content);
    token.id = known ? *known : next++;
    if (const std::int64_t stated = number(entry, "id", where); stated != token.id)
      log_warn("{}: {} is said to have id {}, but its id is {}: {}", where, token.content, stated, token.id,
               known ? "the model's vocabulary has it" : "added tokens are numbered from the end of the vocabulary");
    placed.emplace(token.content, parts.added.size());
    parts.added.push_back({token.content, token.id, token.special, token.strip_left, token.strip_right});
    parts.added_decoded.push_back(token.content);
    if (normalized) {
      std::string form;
      if (parts.normalizer && parts.normalizer->normalize(token.content, form)) {
        token.content = form;
        parts.added_decoded.back() = form;
      }
      parts.in_normalized.push_back(std::move(token));
    } else {
      parts.in_text.push_back(std::move(token));
    }
  }
}

}  // namespace

std::unique_ptr<Tokenizer> read_huggingface_tokenizer(std::string_view contents, const std::string& path) {
  const json file = parse_json(contents, path);
  if (!file.is_object()) fail("{}: not an object", path);
  if (!file.contains("model")) fail("{}: it has no \"model\": not a tokenizer.json of Hugging Face tokenizers", path);
  if (const json& version = member(file, "version"); !version.is_null() && version != "1.0")
    fail("{}: version {} is not supported; \"1.0\" is", path, version.dump());
  for (const char* name : {"truncation", "padding"})
    if (!member(file, name).is_null())
      log_info("{}: its {} is left out of account: training cuts and pads samples itself", path, name);
  PipelineParts parts;
  bool leaves_bytes = false;
  parts.normalizer = read_normalizer(member(file, "normalizer"), path + ": normalizer");
  parts.pre_tokenizer = read_pre_tokenizer(member(file, "pre_tokenizer"), path + ": pre_tokenizer", leaves_bytes);
  parts.model = read_model(member(file, "model"), leaves_bytes, path + ": model");
  parts.decoder = read_decoder(member(file, "decoder"), path + ": decoder");
  read_post_processor(member(file, "post_processor"), path + ": post_processor", parts);
  read_added_tokens(file, path, parts);
  return make_pipeline(std::move(parts));
}

}  // namespace longhaul
