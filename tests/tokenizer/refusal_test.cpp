// Tokenizer files that ask for what this program lacks, or are garbled, are refused with the reason.
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>

#include "../io/temporary.h"
#include "base/environment.h"
#include "base/error.h"
#include "base/json.h"
#include "tokenizer/tokenizer.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

fs::path golden(const std::string& name) {
  return fs::path(environment("LONGHAUL_TEST_DATA")) / "golden/tokenizers" / name / "tokenizer.json";
}

void write(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

}  // namespace

TEST_CASE("what a tokenizer.json asks for and this program lacks is named", "[libraries]") {
  const longhaul_test::TemporaryFolder folder;
  const fs::path here = folder.path();
  const fs::path path = here / "tokenizer.json";
  struct Case {
    std::string style, message;
    std::function<void(json&)> change;
  };
  const std::vector<Case> cases = {
      {"gpt2", "BertNormalizer",
       [](json& t) {
         t["normalizer"] = {{"type", "BertNormalizer"}};
       }},
      {"gpt2", "UnicodeScripts",
       [](json& t) {
         t["pre_tokenizer"] = {{"type", "UnicodeScripts"}};
       }},
      {"gpt2", "RobertaProcessing",
       [](json& t) {
         t["post_processor"] = {{"type", "RobertaProcessing"}};
       }},
      {"gpt2", "WordPiece",
       [](json& t) {
         t["decoder"] = {{"type", "WordPiece"}};
       }},
      {"gpt2", "WordLevel", [](json& t) { t["model"]["type"] = "WordLevel"; }},
      {"gpt2", "dropout 0.1", [](json& t) { t["model"]["dropout"] = 0.1; }},
      {"gpt2", "end_of_word_suffix", [](json& t) { t["model"]["end_of_word_suffix"] = "</w>"; }},
      {"gpt2", "continuing_subword_prefix", [](json& t) { t["model"]["continuing_subword_prefix"] = "##"; }},
      {"gpt2", "version \"2.0\"", [](json& t) { t["version"] = "2.0"; }},
      {"gpt2", "merge 0 needs the token",
       [](json& t) {
         t["model"]["merges"][0] = {"e", "\xe2\x98\x83"};
       }},
      {"gpt2", "is not two tokens", [](json& t) { t["model"]["merges"][1] = "a b c"; }},
      {"gpt2", "unk_token <unk>", [](json& t) { t["model"]["unk_token"] = "<unk>"; }},
      {"gpt2", "no \"model\"", [](json& t) { t.erase("model"); }},
      {"gpt2", "\"vocab\" is not an object", [](json& t) { t["model"]["vocab"] = 3; }},
      {"gpt2", "stands twice", [](json& t) { t["added_tokens"].push_back(t["added_tokens"][0]); }},
      {"llama2", "255 of the 256 tokens <0x00>", [](json& t) { t["model"]["vocab"].erase("<0x41>"); }},
      {"llama3", "\\R", [](json& t) { t["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "\\R+"; }},
      {"llama3", "\\p{Greek}",
       [](json& t) { t["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "\\p{Greek}"; }},
      {"llama3", "a POSIX class",
       [](json& t) { t["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "[[:alpha:]]"; }},
      {"llama3", "a group of another kind",
       [](json& t) { t["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(?<name>a)"; }},
      {"llama3", "the behavior Sideways",
       [](json& t) { t["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Sideways"; }},
      {"mistral", "prepend_scheme often", [](json& t) { t["pre_tokenizer"]["prepend_scheme"] = "often"; }},
      {"t5", "not base64", [](json& t) { t["normalizer"]["precompiled_charsmap"] = "***"; }},
      {"t5", "garbled", [](json& t) { t["normalizer"]["precompiled_charsmap"] = "AAAA"; }},
      {"t5", "unk_id 9999", [](json& t) { t["model"]["unk_id"] = 9999; }},
      {"t5", "more than the text once",
       [](json& t) {
         t["post_processor"]["single"].push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
       }},
  };
  for (const Case& one : cases) {
    INFO(one.style << ": " << one.message);
    json file = read_json(golden(one.style));
    write(path, file.dump());
    REQUIRE_NOTHROW(load_tokenizer(path));
    one.change(file);
    write(path, file.dump());
    CHECK_THROWS_WITH(load_tokenizer(path), Catch::Contains(one.message));
  }
}

TEST_CASE(
    "every published style is read, or refused with the package of the library that the program was built without") {
  for (const auto& entry : fs::directory_iterator(fs::path(environment("LONGHAUL_TEST_DATA")) / "golden/tokenizers")) {
    if (!fs::exists(entry.path() / "ids.json")) continue;
    INFO(entry.path());
    std::string message;
    try {
      load_tokenizer(entry.path());
    } catch (const Error& error) {
      message = error.what();
    }
    if (!message.empty())
      CHECK_THAT(message, Catch::Contains("this program was built without it: install lib") && Catch::Contains("-dev"));
  }
}

TEST_CASE("files that are no tokenizer, and folders without one, are refused") {
  const longhaul_test::TemporaryFolder folder;
  const fs::path here = folder.path();
  CHECK_THROWS_WITH(load_tokenizer(here), Catch::Contains("holds no tokenizer"));
  CHECK_THROWS_WITH(load_tokenizer(here / "missing.json"), Catch::Contains("no such file"));
  write(here / "tokenizer.model", "nothing of the kind");
  CHECK_THROWS_WITH(load_tokenizer(here), Catch::Contains("sentencepiece"));
  write(here / "vocab.txt", "hello");
  CHECK_THROWS_WITH(load_tokenizer(here / "vocab.txt"), Catch::Contains("is no tokenizer file"));
  write(here / "tokenizer.json", "{\"model\": ");
  CHECK_THROWS_WITH(load_tokenizer(here), Catch::Contains("not valid JSON"));
}

TEST_CASE("tiktoken ranks need a pattern, by name or beside them") {
  const longhaul_test::TemporaryFolder folder;
  const fs::path here = folder.path();
  std::string ranks;
  std::ifstream stream(golden("tik_cl100k").parent_path() / "tik_cl100k.tiktoken");
  ranks.assign(std::istreambuf_iterator<char>(stream), {});
  const fs::path path = here / "mine.tiktoken";
  write(path, ranks);
  CHECK_THROWS_WITH(load_tokenizer(path),
                    Catch::Contains("do not say how text is split") && Catch::Contains("mine.tiktoken.json"));
  write(path.string() + ".json", "{\"pattern\": \"cl100k_base\", \"bos\": 1}");
  CHECK_THROWS_WITH(load_tokenizer(path), Catch::Contains("the key bos is none of"));
  write(path.string() + ".json", "{\"pattern\": \"cl100k_base\"}");
  const auto named = load_tokenizer(path);
  CHECK(named->added_tokens().empty());
  // A published name brings its pattern and its special tokens.
  write(here / "r50k_base.tiktoken", ranks);
  const auto published = load_tokenizer(here / "r50k_base.tiktoken");
  CHECK(published->id_of("<|endoftext|>") == 50256);
  CHECK(published->encode("  12345") != named->encode("  12345"));
  write(path, ranks + "AAAA\n");
  CHECK_THROWS_WITH(load_tokenizer(path), Catch::Contains("mine.tiktoken:"));
  write(path, ranks.substr(ranks.find('\n') + 1));
  CHECK_THROWS_WITH(load_tokenizer(path), Catch::Contains("is no token"));
}

TEST_CASE("the end token comes from the files beside a tokenizer", "[libraries]") {
  const longhaul_test::TemporaryFolder folder;
  const fs::path here = folder.path();
  fs::copy(golden("qwen2"), here / "tokenizer.json");
  write(here / "tokenizer_config.json", R"({"eos_token": {"content": "<|im_end|>"}, "bos_token": null})");
  const auto tokenizer = load_tokenizer(here);
  CHECK(tokenizer->eos() == tokenizer->id_of("<|im_end|>"));
  CHECK_FALSE(tokenizer->bos());
  write(here / "tokenizer_config.json", R"({"eos_token": "<|nowhere|>"})");
  CHECK_THROWS_WITH(load_tokenizer(here), Catch::Contains("eos_token <|nowhere|>"));
}

}  // namespace longhaul
