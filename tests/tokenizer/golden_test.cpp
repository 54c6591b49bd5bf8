// Ids of tokenizers in published styles against those of tokenizers, tiktoken and sentencepiece
// (tests/golden/tokenizers).
#include <catch2/catch.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/environment.h"
#include "base/json.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

fs::path golden_folder() {
  return fs::path(environment("LONGHAUL_TEST_DATA")) / "golden/tokenizers";
}

std::string from_hexadecimal(const std::string& text) {
  std::string bytes;
  for (std::size_t i = 0; i < text.size(); i += 2)
    bytes.push_back(static_cast<char>(std::stoi(text.substr(i, 2), nullptr, 16)));
  return bytes;
}

struct Golden {
  std::string name;
  json ids;
  std::vector<std::string> texts, bytes;
};

std::vector<Golden> goldens() {
  const json file = read_json(golden_folder() / "texts.json");
  std::vector<Golden> all;
  for (const auto& entry : fs::directory_iterator(golden_folder())) {
    if (!fs::exists(entry.path() / "ids.json")) continue;
    Golden golden{entry.path().filename(), read_json(entry.path() / "ids.json"), {}, {}};
    for (const std::string text : file["texts"]) {
      golden.texts.push_back(text);
      // The Python binding of sentencepiece ends a text at a NUL.
      if (golden.name.starts_with("spm_")) std::erase(golden.texts.back(), '\0');
    }
    for (const std::string text : file["bytes"]) golden.bytes.push_back(from_hexadecimal(text));
    all.push_back(std::move(golden));
  }
  return all;
}

using Ids = std::vector<std::int32_t>;

}  // namespace

TEST_CASE("ids equal those of tokenizers, tiktoken and sentencepiece", "[golden][libraries]") {
  int tokenizers = 0, bytes = 0;
  for (const Golden& golden : goldens()) {
    INFO(golden.name << " by " << golden.ids["by"]);
    const auto tokenizer = load_tokenizer(golden_folder() / golden.name);
    const auto encoder = tokenizer->encoder();  // one for all texts: what it remembers must not matter
    ++tokenizers;
    REQUIRE(golden.ids["plain"].size() == golden.texts.size());
    for (std::size_t i = 0; i < golden.texts.size(); ++i) {
      INFO("text " << i << ": " << golden.texts[i]);
      Ids ids;
      encoder->encode(golden.texts[i], {}, ids);
      CHECK(ids == golden.ids["plain"][i].get<Ids>());
      const std::string index = std::to_string(i);
      const json& special = golden.ids["special"];
      ids.clear();
      encoder->encode(golden.texts[i], {.special_tokens_in_text = true, .add_special_tokens = true}, ids);
      CHECK(ids == (special.contains(index) ? special[index] : golden.ids["plain"][i]).get<Ids>());
    }
    for (const char* field : {"bytes", "fallback"}) {
      if (!golden.ids.contains(field)) continue;
      ++bytes;
      for (std::size_t i = 0; i < golden.bytes.size(); ++i) {
        INFO(field << " " << i);
        Ids ids;
        encoder->encode(golden.bytes[i], {}, ids);
        CHECK(ids == golden.ids[field][i].get<Ids>());
      }
    }
  }
  CHECK(tokenizers >= 25);
  CHECK(bytes >= 15);
}

TEST_CASE("what a normalizer makes of the first character begins the text, however many pieces it becomes",
          "[libraries]") {
  // By tokenizers 0.23.3: NFKC makes words of these characters; each of theirs begins where the text does, which is
  // what Metaspace's prepend_scheme first asks.
  const auto tokenizer = load_tokenizer(golden_folder() / "unigram_bytes");
  CHECK(tokenizer->encode("\u3369", {}) == Ids{267, 280, 267, 575, 267, 234, 133, 188});
  CHECK(tokenizer->encode("a\u3369", {}) == Ids{267, 261, 280, 575, 234, 133, 188});
  CHECK(tokenizer->encode("\u00bd1", {}) == Ids{267, 280, 267, 497, 267, 287, 280});
  CHECK(tokenizer->encode("\u00a8a", {}) == Ids{267, 449, 261});
  // A token of a private character is found in text with bytes that are no UTF-8 too, and is none of these bytes.
  CHECK(tokenizer->encode("x\U0010fffdy", {}) == Ids{267, 275, 426, 296});
  CHECK(tokenizer->encode("\xff", {}).back() == tokenizer->encode("\xff\xff", {}).back());
  const Ids mixed = tokenizer->encode("x\U0010fffdy\xff", {});
  CHECK(Ids(mixed.begin(), mixed.begin() + 4) == Ids{267, 275, 426, 296});
}

TEST_CASE("decoding gives back what the libraries give, and of byte-level tokenizers the bytes",
          "[golden][libraries]") {
  int exact = 0;
  for (const Golden& golden : goldens()) {
    INFO(golden.name);
    const auto tokenizer = load_tokenizer(golden_folder() / golden.name);
    const json& decoded = golden.ids["decoded"];
    for (std::size_t i = 0; i < golden.texts.size(); ++i) {
      INFO("text " << i << ": " << golden.texts[i]);
      const std::string index = std::to_string(i);
      const std::string expected = decoded.contains(index) ? decoded[index].get<std::string>() : golden.texts[i];
      CHECK(tokenizer->decode(golden.ids["plain"][i].get<Ids>()) == expected);
    }
    if (!golden.ids.contains("bytes") && !golden.name.starts_with("tik_")) continue;
    ++exact;
    for (const std::string& bytes : golden.bytes)
      for (const bool special : {false, true})
        CHECK(tokenizer->decode(tokenizer->encode(bytes, {.special_tokens_in_text = special})) == bytes);
  }
  CHECK(exact >= 14);
}

TEST_CASE("any bytes come back from a byte-level tokenizer", "[libraries]") {
  // Random bytes, and characters cut and mixed with the private ones that stand for lost bytes inside.
  std::uint64_t state = 1;
  const auto random = [&](std::uint64_t below) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::size_t>((state >> 33) % below);
  };
  static const std::string pieces[] = {"a",
                                       " ",
                                       "\n",
                                       "Z9",
                                       "\xc3\xa9",
                                       "\xe4\xbd\xa0",
                                       "\xe4\xbd",
                                       "\xf0\x9f\x98\x80",
                                       "\xf4\x8f\xbc\x80",
                                       "\xf4\x8f\xbf\xbf",
                                       "\xf4\x8f",
                                       "\xff",
                                       "\x80",
                                       "\xcc\x81",
                                       "don't",
                                       "  \t",
                                       "<|endoftext|>"};
  for (const char* name : {"gpt2", "llama3", "o200k", "falcon", "deepseek", "tik_cl100k", "tik_kimi"}) {
    const auto tokenizer = load_tokenizer(golden_folder() / name);
    const auto encoder = tokenizer->encoder();
    for (int i = 0; i < 300; ++i) {
      std::string text;
      for (std::size_t left = random(40); left > 0; --left)
        text += random(3) == 0 ? std::string(1, static_cast<char>(random(256))) : pieces[random(std::size(pieces))];
      Ids ids;
      encoder->encode(text, {.special_tokens_in_text = random(2) == 0}, ids);
      INFO(name << " " << i);
      CHECK(tokenizer->decode(ids) == text);
    }
  }
}

TEST_CASE("threads that encode at once get the same ids") {
  const auto tokenizer = load_tokenizer(golden_folder() / "o200k");
  const auto all = goldens();
  std::vector<Ids> expected;
  for (const auto& text : all[0].texts) expected.push_back(tokenizer->encode(text));
  std::vector<int> wrong(4);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < wrong.size(); ++t)
    threads.emplace_back([&, t] {
      const auto encoder = tokenizer->encoder();
      for (int round = 0; round < 5; ++round)
        for (std::size_t i = 0; i < expected.size(); ++i) {
          Ids ids;
          encoder->encode(all[0].texts[i], {}, ids);
          wrong[t] += ids != expected[i];
        }
    });
  for (auto& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(4));
}

TEST_CASE("a tokenizer says what it has", "[libraries]") {
  const auto qwen = load_tokenizer(golden_folder() / "qwen2");
  const auto end = qwen->id_of("<|im_end|>");
  REQUIRE(end);
  CHECK(qwen->decode(std::vector{*end}) == "<|im_end|>");
  CHECK(qwen->vocabulary_size() == 706);
  CHECK(qwen->added_tokens().size() == 6);
  CHECK_FALSE(qwen->added_tokens()[3].special);  // <tool_call>
  CHECK_FALSE(qwen->id_of("no such token"));
  CHECK_FALSE(qwen->eos());  // nothing beside the file says so
  CHECK_THROWS_WITH(qwen->decode(std::vector{99999}), Catch::Contains("99999"));
  const auto sentencepiece = load_tokenizer(golden_folder() / "spm_llama");
  CHECK(sentencepiece->bos() == 1);
  CHECK(sentencepiece->eos() == 2);
  CHECK(sentencepiece->id_of("<think>"));
  // A fingerprint is of what the ids depend on.
  CHECK(qwen->fingerprint() != load_tokenizer(golden_folder() / "llama3")->fingerprint());
}

}  // namespace longhaul
