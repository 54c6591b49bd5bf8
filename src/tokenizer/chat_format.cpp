#include "tokenizer/chat_format.h"

#include <fmt/ranges.h>
#include <xxhash.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/json.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// What a format is known by. `close` ends the assistant's turn and is learned; empty: the end-of-text token.
struct Family {
  std::string_view name, open_user, open_assistant, close;
};
constexpr Family families[] = {
    {"chatml", "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>"},
    {"chatml", "<|im_start|>user<|im_sep|>", "<|im_start|>assistant<|im_sep|>", "<|im_end|>"},
    {"llama-3", "<|start_header_id|>user<|end_header_id|>\n\n", "<|start_header_id|>assistant<|end_header_id|>\n\n",
     "<|eot_id|>"},
    {"mistral", "[INST] ", " [/INST] ", ""},
    {"mistral", "[INST] ", " [/INST]", ""},
    {"mistral", "[INST] ", "[/INST] ", ""},
    {"mistral", "[INST] ", "[/INST]", ""},
    {"mistral", "[INST]", "[/INST]", ""},
    {"gemma", "<start_of_turn>user\n", "<start_of_turn>model\n", "<end_of_turn>"},
    {"phi-3", "<|user|>\n", "<|assistant|>\n", "<|end|>"},
    {"phi-3", "<|user|>", "<|assistant|>", "<|end|>"},
};

/// Templates in the plain form of each format, for when it is named by hand.
struct Plain {
  std::string_view name, source;
};
constexpr Plain plain_templates[] = {
    {"chatml", "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"},
    {"llama-3",
     "{{ '<|begin_of_text|>' }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + "
     "m.content | trim + '<|eot_id|>' }}{% endfor %}"},
    {"mistral",
     "{{ '<s>' }}{% for m in messages %}{% if m.role == 'assistant' %}{{ ' ' + m.content + '</s>' }}"
     "{% elif m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
     "{% else %}{{ raise_exception('it has no place for the role ' + m.role) }}{% endif %}{% endfor %}"},
    {"gemma",
     "{{ '<bos>' }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('it has no place for the role "
     "system') }}{% endif %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | "
     "trim + '<end_of_turn>\n' }}{% endfor %}"},
    {"phi-3", "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"},
};

constexpr std::string_view system_probe = "longhaulsystem", first_probe = "longhaulquestion",
                           first_answer = "longhaulanswer", last_probe = "longhaulanother", last_answer = "longhaulend";

std::string_view part(std::string_view text, std::size_t begin, std::size_t end = std::string_view::npos) {
  return text.substr(begin, end == std::string_view::npos ? end : end - begin);
}

// The bytes around where two texts part, for a message.
std::string difference(std::string_view a, std::string_view b) {
  const auto at = static_cast<std::size_t>(
      std::mismatch(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(std::min(a.size(), b.size())), b.begin()).first -
      a.begin());
  const std::size_t begin = at < 20 ? 0 : at - 20;
  return fmt::format("\"{}\" and \"{}\" at byte {}", a.substr(std::min(begin, a.size()), 60),
                     b.substr(std::min(begin, b.size()), 60), at);
}

// A special token of tokenizer_config.json: a string, or an object with its content.
std::optional<std::string> special_token(const json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && value.contains("content") && value["content"].is_string())
    return value["content"].get<std::string>();
  return std::nullopt;
}

}  // namespace

/// What was learned of a template: the text around messages.
struct ChatFormat::Turns {
  std::string close;                              // what is learned behind an answer
  std::string prefix;                             // before the first turn, a default system message included
  std::string open_user, close_user;              // around what the user says
  std::string header, open_assistant, open_last;  // header: the assistant's, which both others begin with
  std::string close_assistant, close_last;        // close and what follows; of the last message
  std::string close_last_user;                    // of a user's turn that nothing follows
  std::optional<std::string> prefix_system;       // before a system message that comes first
  std::string after_system;                       // between it and the first message, whose own opening it is
  bool system_in_last = false;                    // the system message is in the last user's turn
  bool trim_system = false, trim_user = false, trim_assistant = false;
};

ChatFormat::ChatFormat() = default;
ChatFormat::ChatFormat(ChatFormat&&) noexcept = default;
ChatFormat& ChatFormat::operator=(ChatFormat&&) noexcept = default;
ChatFormat::~ChatFormat() = default;

const std::vector<std::string_view>& ChatFormat::names() {
  static const std::vector<std::string_view> all = {"chatml", "llama-3", "mistral", "gemma", "phi-3"};
  return all;
}

ChatFormat ChatFormat::named(std::string_view name) {
  for (const auto& [candidate, source] : plain_templates)
    if (candidate == name) return {source, fmt::format("chat format {}", name), {{"eos_token", "</s>"}}};
  fail("the chat format {} is none of {}", name, fmt::join(names(), ", "));
}

std::optional<ChatFormat> ChatFormat::of_folder(const fs::path& folder) {
  const fs::path config_file = folder / "tokenizer_config.json", template_file = folder / "chat_template.jinja";
  chat::Dict variables;
  std::string source, where;
  for (const fs::path& file : {config_file, folder / "special_tokens_map.json"}) {
    std::error_code none;
    if (!fs::is_regular_file(file, none)) continue;
    const json config = read_json(file);
    if (!config.is_object()) fail("{}: not an object", file.string());
    for (const char* key : {"bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"})
      if (const auto found = config.find(key); found != config.end() && !chat::find(variables, key))
        if (const auto token = special_token(*found)) variables.emplace_back(key, *token);
    if (file != config_file) continue;
    if (const auto found = config.find("chat_template"); found != config.end() && !found->is_null()) {
      where = fmt::format("{}: chat_template", file.string());
      if (found->is_string()) source = found->get<std::string>();
      if (found->is_array())
        for (const json& one : *found)
          if (one.is_object() && one.value("name", "") == "default") source = one.value("template", "");
      if (source.empty()) fail("{} is neither a text nor a list with one of the name default", where);
    }
  }
  std::error_code none;
  if (fs::is_regular_file(template_file, none)) {
    source = read_text_file(template_file);
    where = template_file.string();
  }
  if (source.empty()) return std::nullopt;
  return ChatFormat(source, where, variables);
}

ChatFormat::ChatFormat(std::string_view source, const std::string& where, const chat::Dict& variables)
    : template_(chat::Template(source, where)), variables_(variables) {
  std::string key(source);
  for (const auto& [name, value] : variables) key += '\0' + name + '\0' + value.text();
  fingerprint_ = XXH3_64bits(key.data(), key.size());
  if (template_->marks_generations())
    name_ = "generation blocks";
  else
    learn(where);
}

std::string ChatFormat::render(const std::vector<ChatMessage>& messages,
                               std::vector<chat::Rendered::Span>* generations) const {
  chat::List list;
  for (const auto& [role, content] : messages) list.emplace_back(chat::Dict{{"role", role}, {"content", content}});
  chat::Dict variables = variables_;
  variables.emplace_back("messages", std::move(list));
  variables.emplace_back("tools", chat::None{});
  variables.emplace_back("documents", chat::None{});
  variables.emplace_back("add_generation_prompt", false);
  chat::Rendered rendered = template_->render(variables);
  if (generations) *generations = std::move(rendered.generations);
  return std::move(rendered.text);
}

void ChatFormat::learn(const std::string& where) {
  const auto is_none = [&](const std::string& what) {
    fail(
        "{}: it renders none of the chat formats {} ({}); write chats as prompt and completion, or mark the "
        "assistant's "
        "turns in the template by {{% generation %}} blocks",
        where, fmt::join(names(), ", "), what);
  };
  const std::vector<ChatMessage> chat = {{"user", std::string(first_probe)},
                                         {"assistant", std::string(first_answer)},
                                         {"user", std::string(last_probe)},
                                         {"assistant", std::string(last_answer)}};
  std::string text;
  try {
    text = render(chat, nullptr);
  } catch (const Error& error) {
    is_none(fmt::format("two questions and answers are refused: {}", error.what()));
  }
  // Where each message stands; they must stand once and in order.
  const auto places = [&](const std::string& whole, const std::vector<std::string_view>& probes) {
    std::vector<std::size_t> found;
    for (const std::string_view probe : probes) {
      const std::size_t at = whole.find(probe);
      if (at == std::string::npos || whole.find(probe, at + 1) != std::string::npos ||
          (!found.empty() && at < found.back()))
        is_none(fmt::format("of \"{}\" it makes \"{}\"", probe, whole.substr(0, 200)));
      found.push_back(at);
    }
    return found;
  };
  const std::vector<std::string_view> probes = {first_probe, first_answer, last_probe, last_answer};
  const auto at = places(text, probes);
  const std::string_view before = part(text, 0, at[0]), to_answer = part(text, at[0] + first_probe.size(), at[1]),
                         to_question = part(text, at[1] + first_answer.size(), at[2]),
                         to_last = part(text, at[2] + last_probe.size(), at[3]),
                         behind = part(text, at[3] + last_answer.size());
  auto turns = std::make_unique<Turns>();
  const chat::Value* end_token = chat::find(variables_, "eos_token");
  const std::string eos = end_token && end_token->string() ? *end_token->string() : "</s>";
  for (const Family& family : families) {
    if (!before.ends_with(family.open_user) || !to_question.ends_with(family.open_user)) continue;
    const std::size_t header = to_answer.rfind(family.open_assistant), last = to_last.rfind(family.open_assistant);
    if (header == std::string_view::npos || last == std::string_view::npos ||
        to_answer.substr(0, header) != to_last.substr(0, last))
      continue;
    const std::vector<std::string> closes =
        family.close.empty() ? std::vector{eos, " " + eos} : std::vector{std::string(family.close)};
    for (const std::string& mark : closes) {
      if (!turns->close.empty() || !to_question.starts_with(mark) || !behind.starts_with(mark)) continue;
      turns->close = mark;
    }
    if (turns->close.empty()) continue;
    name_ = family.name;
    turns->open_user = family.open_user;
    turns->close_user = to_answer.substr(0, header);
    turns->header = family.open_assistant;
    turns->open_assistant = to_answer.substr(header);
    turns->open_last = to_last.substr(last);
    turns->prefix = before.substr(0, before.size() - family.open_user.size());
    turns->close_assistant = to_question.substr(0, to_question.size() - family.open_user.size());
    turns->close_last = behind;
    break;
  }
  if (turns->close.empty()) is_none(fmt::format("it makes \"{}\" of two questions and answers", text.substr(0, 300)));
  turns->close_last_user = turns->close_user;
  try {
    const std::string open_end = render({chat.begin(), chat.begin() + 3}, nullptr);
    const std::size_t place = open_end.find(last_probe);
    if (place != std::string::npos) turns->close_last_user = open_end.substr(place + last_probe.size());
  } catch (const Error&) {  // it wants an answer, and says so again when a chat has none
  }
  // Which messages lose the white space at their ends.
  const auto trims = [&](std::vector<ChatMessage> messages, std::size_t which) {
    const std::string bare = messages[which].content;
    const std::string plain = render(messages, nullptr);
    messages[which].content = " " + bare + " ";
    const std::string spaced = render(messages, nullptr);
    if (spaced == plain) return true;
    const std::size_t place = plain.find(bare);
    if (place == std::string::npos ||
        spaced != plain.substr(0, place) + " " + bare + " " + plain.substr(place + bare.size()))
      is_none(fmt::format("spaces around \"{}\" give \"{}\"", bare, spaced.substr(0, 200)));
    return false;
  };
  turns->trim_user = trims(chat, 0);
  turns->trim_assistant = trims(chat, 1);
  auto with_system = chat;
  with_system.insert(with_system.begin(), {"system", std::string(system_probe)});
  std::string system_text;
  try {
    system_text = render(with_system, nullptr);
  } catch (const Error&) {  // it has no place for one, and says so again when a chat has one
  }
  const std::size_t place = system_text.find(system_probe);
  if (place != std::string::npos) {
    const std::size_t first = system_text.find(first_probe), last = system_text.find(last_probe);
    turns->system_in_last = place > first;
    if (turns->system_in_last) {
      turns->prefix_system = turns->prefix;
      turns->after_system = part(system_text, place + system_probe.size(), last);
    } else {
      turns->prefix_system = system_text.substr(0, place);
      turns->after_system = part(system_text, place + system_probe.size(), first);
    }
    turns->trim_system = trims(with_system, 0);
  }
  turns_ = std::move(turns);
  for (const auto& messages : {chat, with_system}) {
    if (messages.size() == with_system.size() && !turns_->prefix_system) continue;
    try {
      write(messages, TrainOn::assistant);
    } catch (const Error& error) {
      is_none(error.what());
    }
  }
}

ChatText ChatFormat::write(const std::vector<ChatMessage>& messages, TrainOn train_on) const {
  if (messages.empty()) fail("the chat has no message");
  for (const auto& [role, content] : messages)
    if (role != "system" && role != "user" && role != "assistant")
      fail("the role {} is none of system, user, assistant", role);
  ChatText chat;
  std::vector<chat::Rendered::Span> spans;
  chat.text = render(messages, &spans);
  if (turns_) {
    const Turns& turns = *turns_;
    const auto trimmed = [](const std::string& content, bool trim) {
      return trim ? chat::strip(content, true, true) : content;
    };
    std::size_t i = 0, last_user = messages.size();
    for (std::size_t j = 0; j < messages.size(); ++j)
      if (messages[j].role == "user") last_user = j;
    std::string text, system;
    bool opened = false;  // the next message's opening was written with the system message
    if (messages[0].role == "system") {
      if (!turns.prefix_system)
        fail("the chat format {} has no place for a system message; put it into the first question", name_);
      text = *turns.prefix_system;
      system = trimmed(messages[0].content, turns.trim_system) + turns.after_system;
      if (!turns.system_in_last) {
        text += system;
        opened = true;
      }
      ++i;
    } else {
      text = turns.prefix;
    }
    for (; i < messages.size(); ++i) {
      const bool last = i + 1 == messages.size();
      if (messages[i].role == "system") fail("message {} is of the role system; only the first message may be", i + 1);
      if (messages[i].role == "user") {
        if (!opened) text += turns.open_user;
        if (turns.system_in_last && i == last_user) text += system;
        text += trimmed(messages[i].content, turns.trim_user) + (last ? turns.close_last_user : turns.close_user);
      } else {
        const std::string& open = last ? turns.open_last : turns.open_assistant;
        text += open;
        const std::size_t begin = text.size() - (open.size() - turns.header.size());
        text += trimmed(messages[i].content, turns.trim_assistant);
        spans.push_back({begin, text.size() + turns.close.size()});
        text += last ? turns.close_last : turns.close_assistant;
      }
      opened = false;
    }
    if (text != chat.text)
      fail("its chat template writes this chat otherwise than the chat format {}: {}", name_,
           difference(chat.text, text));
  }
  if (train_on == TrainOn::all) spans = {{0, chat.text.size()}};
  if (train_on == TrainOn::last && spans.size() > 1) spans.erase(spans.begin(), spans.end() - 1);
  chat.learned = std::move(spans);
  return chat;
}

ChatEncoder::ChatEncoder(const Tokenizer& tokenizer, Encoder& encoder) : tokenizer_(tokenizer), encoder_(encoder) {
  std::vector<std::int32_t> ids;
  encoder_.encode("a", {}, ids);
  if (!ids.empty()) {
    plain_ = ids.back();
    plain_text_ = tokenizer_.decode(std::vector<std::int32_t>{plain_});
  }
  const auto size = static_cast<std::size_t>(tokenizer_.vocabulary_size());
  bytes_.resize(size);
  added_.assign(size, -1);
  for (std::size_t i = 0; i < tokenizer_.added_tokens().size(); ++i)
    added_[static_cast<std::size_t>(tokenizer_.added_tokens()[i].id)] = static_cast<std::int32_t>(i);
}

// The text of a token inside a text: decoders may drop the space before the first one.
const std::string& ChatEncoder::bytes_of(std::int32_t id) {
  auto& bytes = bytes_[static_cast<std::size_t>(id)];
  if (!bytes) bytes = tokenizer_.decode(std::vector<std::int32_t>{plain_, id}).substr(plain_text_.size());
  return *bytes;
}

void ChatEncoder::encode(const ChatText& chat, std::vector<std::int32_t>& ids, std::vector<std::uint8_t>& learned) {
  const std::size_t first = ids.size();
  encoder_.encode(chat.text, {.special_tokens_in_text = true}, ids);
  learned.resize(ids.size(), 0);
  if (chat.learned.empty()) return;
  if (plain_ < 0) fail("the tokenizer has no token for the letter a");
  const std::string_view text = chat.text;
  constexpr std::size_t lost = std::string_view::npos;
  std::size_t at = 0, known = 0;  // known: where the text is last certain to be
  auto span = chat.learned.begin();
  for (std::size_t i = first; i < ids.size(); ++i) {
    const auto id = static_cast<std::size_t>(ids[i]);
    std::size_t begin = at, end = at;
    bool prefix = false;
    const Tokenizer::AddedToken* added =
        added_[id] >= 0 ? &tokenizer_.added_tokens()[static_cast<std::size_t>(added_[id])] : nullptr;
    std::size_t place = lost;  // of an added token that stands in the text as it is written
    if (added && at != lost && !text.substr(at).starts_with(bytes_of(ids[i])))
      place = text.find(added->content, at);
    else if (added)
      place = text.find(added->content, known);
    if (place != lost) {
      // What the tokenizer changed before it ends here.
      if (at == lost || !added->strip_left) begin = place;
      end = place + added->content.size();
      if (added->strip_right) end = text.size() - chat::strip(text.substr(end), true, false).size();
      known = at = end;
    } else if (at != lost) {
      const std::string_view bytes = bytes_of(ids[i]);
      if (text.substr(at).starts_with(bytes))
        at += bytes.size();
      else if ((prefix = bytes.starts_with(' ') && text.substr(at).starts_with(bytes.substr(1))))
        at += bytes.size() - 1;
      else
        at = lost;
      end = at;
      if (at != lost) known = at;
      // A space that the tokenizer put before the text counts as part of its first character, as in tokenizers.
      if (prefix && end == begin) ++end;
    }
    while (span != chat.learned.end() && begin != lost && begin >= span->end) ++span;
    if (span == chat.learned.end()) continue;
    if (at == lost) {
      // Somewhere between `known` and the next added token, which must be on the same side of the span's ends.
      std::size_t next = text.size();
      for (std::size_t j = i; j < ids.size(); ++j) {
        const auto other = added_[static_cast<std::size_t>(ids[j])];
        if (other < 0) continue;
        next = text.find(tokenizer_.added_tokens()[static_cast<std::size_t>(other)].content, known);
        break;
      }
      const bool inside = known >= span->begin && next <= span->end, outside = next <= span->begin;
      if (!inside && !outside)
        fail(
            "the tokenizer changes the text (normalizes it) so that where a turn begins and ends in its tokens cannot "
            "be "
            "told, after \"{}\"",
            text.substr(known < 30 ? 0 : known - 30, std::min<std::size_t>(known, 30)));
      learned[i] = inside;
    } else {
      learned[i] = end > span->begin;
    }
  }
}

}  // namespace longhaul
