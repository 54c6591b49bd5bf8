// Chat templates and what is learned of chats, against transformers' apply_chat_template (tests/golden/chats).
#include "tokenizer/chat_format.h"

#include <catch2/catch.hpp>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>

#include "base/environment.h"
#include "base/error.h"
#include "base/json.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;
using Catch::Matchers::Contains;
using nlohmann::json;

fs::path golden_folder() {
  return fs::path(environment("LONGHAUL_TEST_DATA")) / "golden";
}

chat::Value to_value(const json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number_integer()) return value.get<std::int64_t>();
  if (value.is_array()) {
    chat::List list;
    for (const json& one : value) list.push_back(to_value(one));
    return list;
  }
  chat::Dict dict;
  for (const auto& [key, one] : value.items()) dict.emplace_back(key, to_value(one));
  return dict;
}

// The template without its marks, but with what these do to white space.
std::string without_marks(const std::string& source) {
  const std::string begun = std::regex_replace(source, std::regex(R"((\{%-?) generation (-?%\}))"), "$1 if true $2");
  return std::regex_replace(begun, std::regex(R"((\{%-?) ?endgeneration (-?%\}))"), "$1 endif $2");
}

std::vector<ChatMessage> messages_of(const json& list) {
  std::vector<ChatMessage> messages;
  for (const json& one : list) messages.push_back({one["role"], one["content"]});
  return messages;
}

// What a format makes of a conversation is what transformers makes of it.
void check_chat(const ChatFormat& format, ChatEncoder& encoder, const json& golden) {
  const ChatText chat = format.write(messages_of(golden["messages"]), TrainOn::assistant);
  CHECK(chat.text == golden["text"].get<std::string>());
  std::vector<std::int32_t> ids;
  std::vector<std::uint8_t> learned;
  encoder.encode(chat, ids, learned);
  CHECK(ids == golden["ids"].get<std::vector<std::int32_t>>());
  CHECK(learned == golden["mask"].get<std::vector<std::uint8_t>>());
}

}  // namespace

TEST_CASE("small templates give what transformers' Jinja gives", "[golden]") {
  const json golden = read_json(golden_folder() / "chats/expressions.json");
  chat::Value variables = to_value(golden["variables"]);
  for (const json& one : golden["templates"]) {
    const std::string source = one["template"];
    INFO(source);
    const auto render = [&] { return chat::Template(source, "a template").render(*variables.dict()).text; };
    if (one.contains("refused"))
      CHECK_THROWS_AS(render(), Error);
    else
      CHECK(render() == one["text"].get<std::string>());
  }
}

TEST_CASE("chats have the text, the ids and the assistant masks of transformers", "[golden][libraries]") {
  const bool marked = GENERATE(true, false);
  for (const json& golden : read_json(golden_folder() / "chats/chats.json")) {
    INFO(golden["name"] << (marked ? ", marked" : ", recognised"));
    std::string source = golden["template"];
    if (!marked) source = without_marks(source);
    const chat::Value variables = to_value(golden["variables"]);
    const ChatFormat format(source, golden["name"].get<std::string>(), *variables.dict());
    CHECK(format.name() == (marked ? "generation blocks" : golden["format"].get<std::string>()));
    const auto tokenizer = load_tokenizer(golden_folder() / "tokenizers" / golden["tokenizer"].get<std::string>());
    const auto words = tokenizer->encoder();
    ChatEncoder encoder(*tokenizer, *words);
    int compared = 0;
    for (const json& one : golden["chats"]) {
      INFO(one["messages"].dump());
      if (one.contains("refused")) {
        CHECK_THROWS_AS(format.write(messages_of(one["messages"]), TrainOn::assistant), Error);
        continue;
      }
      // A template that moves what an answer holds is no plain chatml there, and says so; as does one that begins the
      // text anew with every question, when two follow each other.
      const bool moved = !marked && ((golden["name"] == "chatml with thoughts" &&
                                      (one["messages"].dump().find("</think>") != std::string::npos ||
                                       one["messages"].back()["content"].get<std::string>().starts_with("\n"))) ||
                                     (golden["name"] == "llama-2" && one["messages"][1]["role"] == "user"));
      if (moved) {
        CHECK_THROWS_WITH(format.write(messages_of(one["messages"]), TrainOn::assistant), Contains("otherwise than"));
        continue;
      }
      check_chat(format, encoder, one);
      ++compared;
    }
    CHECK(compared >= 9);
  }
}

TEST_CASE("a chat's last turn or all of it can be learned instead") {
  const ChatFormat format = ChatFormat::named("chatml");
  const std::vector<ChatMessage> chat = {{"user", "a"}, {"assistant", "b"}, {"user", "c"}, {"assistant", "d"}};
  const auto learned = [&](TrainOn train_on) {
    const ChatText text = format.write(chat, train_on);
    std::vector<std::string> parts;
    for (const auto& span : text.learned) parts.push_back(text.text.substr(span.begin, span.end - span.begin));
    return parts;
  };
  CHECK(learned(TrainOn::assistant) == std::vector<std::string>{"b<|im_end|>", "d<|im_end|>"});
  CHECK(learned(TrainOn::last) == std::vector<std::string>{"d<|im_end|>"});
  CHECK(learned(TrainOn::all).front().starts_with("<|im_start|>user\na"));
}

TEST_CASE("every format has a plain form under its name") {
  for (const std::string_view name : ChatFormat::names()) {
    const ChatFormat format = ChatFormat::named(name);
    CHECK(format.name() == name);
    CHECK(format.write({{"user", "q"}, {"assistant", "a"}}, TrainOn::assistant).learned.size() == 1);
  }
  CHECK_THROWS_WITH(ChatFormat::named("vicuna"), Contains("chatml, llama-3, mistral, gemma, phi-3"));
}

TEST_CASE("templates that render no known format are refused with the list, and with what they render") {
  const auto read = [](const char* source) { return ChatFormat(source, "some/chat_template.jinja", {}); };
  CHECK_THROWS_WITH(
      read("{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}"),
      Contains("some/chat_template.jinja") && Contains("chatml, llama-3, mistral, gemma, phi-3") && Contains("</s>"));
  // Not even where one of the turns would pass.
  CHECK_THROWS_WITH(read("{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' if "
                         "loop.first else m.content }}{% endfor %}"),
                    Contains("none of the chat formats"));
  CHECK_THROWS_WITH(read("{% for m in messages %}{{ m.content }}"), Contains("endfor is missing"));
  CHECK_THROWS_WITH(read("{% include 'x' %}"), Contains("the statement include is not supported"));
  CHECK_THROWS_WITH(read("{{ strftime_now('%d') }}"), Contains("current date"));
  CHECK_THROWS_WITH(read("{% for i in range(1000000000) %}{% endfor %}"), Contains("too long"));
  const std::string nested = std::string(5000, '(') + std::string(5000, ')') + " }}";
  CHECK_THROWS_WITH(read(("{{ " + nested).c_str()), Contains("nested too deep"));
}

TEST_CASE("a chat that its template writes otherwise than the format is refused") {
  // Like chatml, but for what says "secret".
  const ChatFormat format(
      "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content | replace('secret', '***') + "
      "'<|im_end|>\n' }}{% endfor %}",
      "x", {});
  CHECK(format.name() == "chatml");
  CHECK_NOTHROW(format.write({{"user", "q"}, {"assistant", "a"}}, TrainOn::assistant));
  CHECK_THROWS_WITH(format.write({{"user", "q"}, {"assistant", "a secret"}}, TrainOn::assistant),
                    Contains("otherwise than the chat format chatml") && Contains("***"));
  CHECK_THROWS_WITH(format.write({{"robot", "q"}}, TrainOn::assistant), Contains("none of system, user, assistant"));
  CHECK_THROWS_WITH(format.write({{"user", "q"}, {"system", "s"}}, TrainOn::assistant), Contains("only the first"));
}

TEST_CASE("a folder's template is its chat_template.jinja, or else what tokenizer_config.json says") {
  const fs::path folder = fs::temp_directory_path() / "longhaul_chat_folder";
  fs::remove_all(folder);
  fs::create_directories(folder);
  CHECK_FALSE(ChatFormat::of_folder(folder).has_value());
  const std::string gemma =
      "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\\n{{ "
      "m.content }}<end_of_turn>\\n{% endfor %}";
  std::ofstream(folder / "tokenizer_config.json")
      << R"({"bos_token": {"content": "<bos>"}, "chat_template": [{"name": "other", "template": "x"},
             {"name": "default", "template": ")"
      << gemma << "\"}]}";
  const auto format = ChatFormat::of_folder(folder);
  REQUIRE(format);
  CHECK(format->name() == "gemma");
  CHECK(
      format->write({{"user", "q"}, {"assistant", "a"}}, TrainOn::assistant).text.starts_with("<bos><start_of_turn>"));
  std::ofstream(folder / "chat_template.jinja")
      << "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{{ '' }}{% endfor %}\n";
  CHECK(ChatFormat::of_folder(folder)->name() == "chatml");
  fs::remove_all(folder);
}

}  // namespace longhaul
