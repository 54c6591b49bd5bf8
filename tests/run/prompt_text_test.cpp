// Text that is told while a sequence grows is the text of the whole sequence, for tokenizers of every style.
#include "run/prompt_text.h"

#include <catch2/catch.hpp>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "../io/temporary.h"
#include "base/environment.h"
#include "base/json.h"
#include "tokenizer/unicode.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<std::int32_t>;

fs::path tokenizers() {
  return fs::path(environment("LONGHAUL_TEST_DATA")) / "golden/tokenizers";
}

// Sequences for a vocabulary: texts with characters of many bytes, then any ids, bytes and spaces in a row among them.
std::vector<Ids> sequences(const PromptText& text, std::int64_t vocabulary) {
  std::vector<Ids> list;
  for (const char* one : {"  Two  spaces, then\n\n\tmore \xf0\x9f\x98\x80\xf0\x9f\x8f\xbd na\xc3\xafve",
                          "\xe6\xbc\xa2\xe5\xad\x97 \xd7\xa9\xd7\x9c\xd7\x95\xd7\x9d e\xcc\x81", "a    b"}) {
    Ids ids;
    for (int i = 0; i < 12; ++i) {
      const Ids more = text.encode(one);
      ids.insert(ids.end(), more.begin(), more.end());
    }
    list.push_back(ids);
  }
  std::mt19937 random(7);
  for (int i = 0; i < 6; ++i) {
    Ids ids;
    const auto range = static_cast<std::uint32_t>(i % 2 == 0 ? vocabulary : std::min<std::int64_t>(vocabulary, 300));
    while (ids.size() < 300) {
      ids.push_back(static_cast<std::int32_t>(random() % range));
      while (random() % 3 == 0) ids.push_back(ids.back());
    }
    list.push_back(ids);
  }
  return list;
}

// Told token by token. `prompt`: so many at first. What is certain is told at once.
void check_told(const PromptText& text, const Ids& ids, std::size_t prompt) {
  TextStream stream(text);
  std::string told;
  std::size_t done = 0;
  Ids known;
  while (done < ids.size()) {
    const std::size_t count = done == 0 ? std::min(prompt, ids.size()) : 1;
    told += stream.append(std::span(ids).subspan(done, count));
    done += count;
    known.assign(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(done));
    while (!known.empty() && (!text.says(known.back()) || text.depends_on_neighbours(known.back()))) known.pop_back();
    const std::string now = text.decode(known);
    if (told != now.substr(0, now.size() - unfinished_utf8_suffix(now))) {
      INFO("after " << done << " ids");
      REQUIRE(told == now);
    }
  }
  REQUIRE(told + stream.finish() == text.decode(ids));
}

}  // namespace

TEST_CASE("text told while a sequence grows is that of the whole sequence", "[libraries]") {
  int styles = 0, with_bytes = 0;
  for (const auto& entry : fs::directory_iterator(tokenizers())) {
    if (!entry.is_directory() || !tokenizer_file_in(entry.path())) continue;
    INFO(entry.path().filename());
    ++styles;
    const auto tokenizer = load_tokenizer(entry.path());
    const std::int64_t vocabulary = tokenizer->vocabulary_size();
    const PromptText text(entry.path(), vocabulary + 5, false);  // padded beyond the tokenizer's
    Ids sayable;
    for (std::int32_t id = 0; id < vocabulary; ++id) try {
        tokenizer->decode(std::span(&id, 1));
        sayable.push_back(id);
      } catch (const std::exception&) {  // a gap among its ids
      }
    for (Ids& ids : sequences(text, static_cast<std::int64_t>(sayable.size()))) {
      for (std::int32_t& id : ids) id = sayable[static_cast<std::size_t>(id) % sayable.size()];
      ids.push_back(static_cast<std::int32_t>(vocabulary + 1));
      with_bytes +=
          std::any_of(ids.begin(), ids.end(), [&](std::int32_t id) { return text.depends_on_neighbours(id); });
      for (const std::size_t prompt : {std::size_t{1}, std::size_t{5}, std::size_t{150}}) check_told(text, ids, prompt);
    }
  }
  CHECK(styles >= 20);
  CHECK(with_bytes > 0);
}

TEST_CASE("half a character waits for its other half, and what a token costs does not grow") {
  const PromptText bytes({}, 257, false);
  TextStream stream(bytes);
  const auto append = [&](std::int32_t id) { return stream.append(std::span(&id, 1)); };
  CHECK(append('a') == "a");
  CHECK(append(0xe2).empty());
  CHECK(append(0x82).empty());
  CHECK(append(256).empty());  // the end of a text says nothing
  CHECK(append(0xac) == "\xe2\x82\xac");
  CHECK(append(0xff) == "\xff");  // begins no character
  CHECK(append(0xc3).empty());
  CHECK(append('b') ==
        "\xc3"
        "b");
  for (int i = 0; i < 1000; ++i) {
    CHECK(append('x') == "x");
    CHECK(stream.held() <= 65);
  }
  CHECK(append(0xf0).empty());
  CHECK(stream.finish() == "\xf0");
  CHECK(stream.finish().empty());

  const PromptText numbers({}, 1000, false);
  TextStream listed(numbers);
  CHECK(listed.append(Ids{1, 2}) == "1 2");
  for (int i = 0; i < 100; ++i) CHECK(listed.append(Ids{345}) == " 345");
  CHECK(listed.held() <= 65);
}

TEST_CASE("a decoder that rewrites a whole text is told at its end", "[libraries]") {
  nlohmann::json file = read_json(tokenizers() / "gpt2/tokenizer.json");
  const longhaul_test::TemporaryFolder folder;
  const auto told = [&](const char* decoder) {
    file["decoder"] = nlohmann::json::parse(decoder);
    std::ofstream(folder / "tokenizer.json") << file.dump();
    const PromptText text(folder.path(), 1 << 20, false);
    const Ids ids = text.encode("an end and another end");
    TextStream stream(text);
    std::string before;
    for (const std::int32_t id : ids) before += stream.append(std::span(&id, 1));
    CHECK(before + stream.finish() == text.decode(ids));
    return before;
  };
  CHECK_FALSE(told(R"({"type": "ByteLevel"})").empty());
  CHECK(told(R"({"type": "Sequence", "decoders": [{"type": "ByteLevel"}, {"type": "Fuse"},
                {"type": "Replace", "pattern": {"String": "an"}, "content": "the"}]})")
            .empty());
  CHECK_FALSE(told(R"({"type": "Sequence", "decoders": [{"type": "ByteLevel"}, {"type": "Fuse"},
                      {"type": "Strip", "content": "a", "start": 1, "stop": 0}]})")
                  .empty());
  CHECK(told(R"({"type": "Sequence", "decoders": [{"type": "ByteLevel"}, {"type": "Fuse"},
                {"type": "Strip", "content": "d", "start": 0, "stop": 1}]})")
            .empty());
}

}  // namespace longhaul
