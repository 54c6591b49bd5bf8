#include "data/text_line.h"

#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace longhaul {
namespace {

using nlohmann::json;

// What a message says: a string, or a list of parts that are all text.
std::string content_of(const json& message, const std::string& where) {
  const auto found = message.find("content");
  if (found == message.end() || found->is_null()) return "";
  if (found->is_string()) return found->get<std::string>();
  if (!found->is_array()) fail("{}: a message's content must be a string", where);
  std::string text;
  for (const json& part : *found) {
    if (!part.is_object() || part.value("type", json()) != "text" || !part.contains("text") ||
        !part["text"].is_string())
      fail("{}: a message's content has a part that is no text; images and sound cannot be read", where);
    text += part["text"].get_ref<const std::string&>();
  }
  return text;
}

void read_messages(const json& list, const std::string& where, TextLine& line) {
  if (!list.is_array()) fail("{}: messages must be a list", where);
  for (const json& message : list) {
    if (!message.is_object() || !message.contains("role") || !message["role"].is_string())
      fail("{}: every message must be an object with a role and a content", where);
    ChatMessage one = {message["role"].get<std::string>(), content_of(message, where)};
    const bool calls = message.contains("tool_calls") && !message["tool_calls"].empty();
    const bool answers = one.role == "tool" || one.role == "function";
    line.ignored_tools = line.ignored_tools || calls || answers;
    if (answers || (calls && one.content.empty())) continue;
    if (!message.contains("content")) fail("{}: a message of the role {} has no content", where, one.role);
    line.messages.push_back(std::move(one));
  }
  if (line.messages.empty()) fail("{}: the chat has no message", where);
}

void read_ids(const json& line, const std::string& where, TextLine& result) {
  const auto numbers = [&](const char* name) {
    const json& list = line[name];
    if (!list.is_array()) fail("{}: {} must be a list of whole numbers", where, name);
    std::vector<std::int32_t> ids;
    for (const json& one : list) {
      const std::int64_t number = one.is_number_integer() ? one.get<std::int64_t>() : std::int64_t{-1} << 40;
      if (number < -100 || number > std::numeric_limits<std::int32_t>::max())
        fail("{}: {} holds {}; it must be a list of token ids", where, name, one.dump().substr(0, 60));
      ids.push_back(static_cast<std::int32_t>(number));
    }
    return ids;
  };
  result.ids = numbers("input_ids");
  result.learned.assign(result.ids.size(), 1);
  for (std::size_t i = 0; i < result.ids.size(); ++i)
    if (result.ids[i] < 0) fail("{}: input_ids holds {}, which is no token id", where, result.ids[i]);
  if (!line.contains("labels")) return;
  const auto labels = numbers("labels");
  if (labels.size() != result.ids.size())
    fail("{}: it has {} input_ids and {} labels; each id has its label", where, result.ids.size(), labels.size());
  for (std::size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] != -100 && labels[i] != result.ids[i])
      fail("{}: label {} is {} and its id {}; a label is its own id (the shift is made here) or -100", where, i + 1,
           labels[i], result.ids[i]);
    result.learned[i] = labels[i] != -100;
  }
}

}  // namespace

std::int64_t TextLine::bytes() const {
  std::size_t count = prompt.size() + text.size();
  for (const auto& message : messages) count += message.content.size();
  return static_cast<std::int64_t>(count);
}

TextLine read_text_line(const std::string& bytes, const std::string& where) {
  TextLine result;
  if (bytes.find_first_not_of(" \t\r\n") == std::string::npos) return result;
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
  // What a line is decides one field of its own; a line with two of them is not guessed at.
  constexpr const char* kinds[] = {"text", "prompt", "messages", "instruction", "input_ids"};
  const char* kind = nullptr;
  for (const char* one : kinds) {
    if (!line.contains(one)) continue;
    if (kind && std::string_view(kind) == "text" && std::string_view(one) == "prompt")
      fail("{}: it has both text and prompt; a line is either a text or a prompt with its completion", where);
    if (kind) fail("{}: it has both {} and {}; a line is one of them", where, kind, one);
    kind = one;
  }
  if (!kind || (std::string_view(kind) == "prompt" && !line.contains("completion")))
    fail("{}: it has neither text nor both prompt and completion, nor messages, instruction or input_ids", where);
  if (std::string_view(kind) == "text" && line.contains("completion"))
    fail("{}: it has both text and completion; a line is either a text or a prompt with its completion", where);
  switch (kind[0]) {
    case 't':
      result.kind = TextLine::Kind::text;
      result.text = *field("text");
      break;
    case 'p':
      result.kind = TextLine::Kind::prompt;
      result.prompt = *field("prompt");
      result.text = *field("completion");
      break;
    case 'm':
      result.kind = TextLine::Kind::chat;
      result.ignored_tools = line.contains("tools") && !line["tools"].empty();
      read_messages(line["messages"], where, result);
      break;
    default:
      if (std::string_view(kind) == "input_ids") {
        result.kind = TextLine::Kind::ids;
        read_ids(line, where, result);
        break;
      }
      result.kind = TextLine::Kind::chat;
      if (line.contains("history") && !line["history"].empty())
        fail("{}: it has a history; write such a chat as messages", where);
      const std::string *input = field("input"), *output = field("output"), *system = field("system");
      if (!output) fail("{}: it has instruction but no output", where);
      if (system && !system->empty()) result.messages.push_back({"system", *system});
      result.messages.push_back({"user", *field("instruction") + (input && !input->empty() ? "\n" + *input : "")});
      result.messages.push_back({"assistant", *output});
  }
  return result;
}

}  // namespace longhaul
