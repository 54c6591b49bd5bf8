// Text to token files: what is written is what is read, whatever the format, the compression and the number of threads.
#include "data/tokenize.h"

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "../io/temporary.h"
#include "base/environment.h"
#include "data/dataset.h"

using namespace longhaul;
using namespace longhaul_test;
using Catch::Contains;

namespace {

namespace fs = std::filesystem;
using Ids = std::vector<std::int32_t>;

std::unique_ptr<Tokenizer> tokenizer(const std::string& name = "qwen2") {
  return load_tokenizer(fs::path(environment("LONGHAUL_TEST_DATA")) / "golden/tokenizers" / name);
}

TokenizeProgress run(const Tokenizer& with, const TokenizeOptions& options) {
  return tokenize_files(with, options, [](const TokenizeProgress&) {});
}

Ids ids_of(const TokenDataset& dataset) {
  Ids ids(static_cast<std::size_t>(dataset.size()));
  dataset.read(0, dataset.size(), ids.data());
  return ids;
}

std::vector<std::int64_t> ends_of(const TokenDataset& dataset) {
  std::vector<std::int64_t> ends;
  dataset.document_ends(0, dataset.size(), ends);
  return ends;
}

TokenDataset open(const std::string& file, const std::string& format, std::int64_t vocabulary = 1000) {
  DatasetOptions options;
  options.files = {file};
  options.format = format;
  options.vocabulary = vocabulary;
  return TokenDataset(options);
}

// Text of several kinds, a prompt among them, and what its ids are.
struct Inputs {
  TemporaryFolder folder;
  std::vector<std::string> files;
  Ids ids, learned;
  std::vector<std::int64_t> ends;

  explicit Inputs(const Tokenizer& with, bool prompts, std::int32_t end) {
    const auto add = [&](const std::string& prompt, const std::string& text) {
      for (const auto& [part, label] : {std::pair(prompt, 0), std::pair(text, 1)})
        for (const std::int32_t id : with.encode(part)) {
          ids.push_back(id);
          learned.push_back(label);
        }
      ids.push_back(end);
      learned.push_back(1);
      ends.push_back(static_cast<std::int64_t>(ids.size()));
    };
    std::string lines;
    for (int i = 0; i < 500; ++i) {
      const std::string text =
          "line " + std::to_string(i) + " of caf\\u00e9 \\n" + std::string(static_cast<std::size_t>(i % 40), 'x');
      const std::string decoded =
          "line " + std::to_string(i) + " of caf\xc3\xa9 \n" + std::string(static_cast<std::size_t>(i % 40), 'x');
      if (prompts && i % 3 == 0) {
        lines += R"({"prompt": "say ", "completion": ")" + text + "\"}\n";
        add("say ", decoded);
      } else {
        lines += R"({"text": ")" + text + "\", \"other\": 1}\n";
        add("", decoded);
      }
    }
    lines += "\n{\"text\": \"\"}\n";  // neither a blank line nor an empty text is a document
    write_bytes(folder / "a.jsonl", lines);
    std::string text = "A file is a document.\n\xff broken\n";
    write_bytes(folder / "b.txt", text);
    add("", text);
    files = {folder / "a.jsonl", folder / "b.txt"};
  }
};

}  // namespace

TEST_CASE("tokenized text is read as it was written, in every format and by any number of threads", "[libraries]") {
  const auto with = tokenizer();
  const std::int32_t end = *with->id_of("<|endoftext|>");
  for (const std::string format : {"megatron", "datatrove", "llmc"}) {
    INFO(format);
    const Inputs inputs(*with, format == "datatrove", end);
    std::string first;
    for (const int threads : {1, 3}) {
      TokenizeOptions options;
      options.files = inputs.files;
      options.format = format;
      options.prefix = inputs.folder / ("out" + std::to_string(threads));
      options.threads = threads;
      options.end_token = end;
      const TokenizeProgress done = run(*with, options);
      CHECK(done.counts.tokens == static_cast<std::int64_t>(inputs.ids.size()));
      CHECK(done.counts.documents == 501);
      CHECK(done.empty_documents == 2);
      const std::string file = TokenWriter::output_file(format, options.prefix);
      const TokenDataset dataset = open(file, format);
      dataset.validate(0, dataset.size());
      CHECK(ids_of(dataset) == inputs.ids);
      if (format != "llmc") CHECK(ends_of(dataset) == inputs.ends);
      if (format == "datatrove") {
        REQUIRE(dataset.has_loss_mask());
        std::vector<std::uint8_t> mask(inputs.ids.size());
        dataset.read_loss_mask(0, dataset.size(), mask.data());
        CHECK(Ids(mask.begin(), mask.end()) == inputs.learned);
      }
      const std::string bytes = read_bytes(file);
      if (first.empty()) first = bytes;
      CHECK(bytes == first);
      CHECK_THROWS_WITH(run(*with, options), Contains("exists already"));
    }
    for (const auto& entry : fs::directory_iterator(inputs.folder.path()))
      CHECK_FALSE(entry.path().extension() == ".partial");
  }
}

TEST_CASE("compressed inputs are the text inside, and damaged ones are refused", "[libraries]") {
  const auto with = tokenizer();
  const Inputs inputs(*with, false, 7);
  TokenizeOptions options;
  options.format = "datatrove";
  options.end_token = 7;
  for (const auto& [command, ending] : {std::pair("gzip -k", ".gz"), std::pair("zstd -q", ".zst")}) {
    if (std::system(("which " + std::string(command).substr(0, 4) + " > /dev/null").c_str()) != 0) continue;
    options.files.clear();
    for (const auto& file : inputs.files) {
      REQUIRE(std::system((std::string(command) + " '" + file + "'").c_str()) == 0);
      options.files.push_back(file + ending);
    }
    options.prefix = inputs.folder / (std::string("out") + ending);
    run(*with, options);
    CHECK(ids_of(open(options.prefix + ".ds", "datatrove")) == inputs.ids);
    const std::string whole = read_bytes(options.files[0]);
    options.prefix += ".cut";
    write_bytes(options.files[0], whole.substr(0, whole.size() / 2));
    CHECK_THROWS_WITH(run(*with, options), Contains("truncated"));
  }
}

TEST_CASE("an interrupted output goes on where it was, and only with the same files", "[libraries]") {
  const auto with = tokenizer();
  const Inputs inputs(*with, true, 7);
  TokenizeOptions options;
  options.files = inputs.files;
  options.format = "datatrove";
  options.end_token = 7;
  options.prefix = inputs.folder / "whole";
  run(*with, options);
  // The state after 100 documents, as a run that was killed leaves it: more in the files than the state counts.
  options.prefix = inputs.folder / "cut";
  const auto begin = with->vocabulary_size();
  {
    TokenWriter writer("datatrove", options.prefix, begin, "x", {});
    std::int64_t from = 0;
    for (std::size_t i = 0; i < 130; ++i) {
      const auto to = inputs.ends[i];
      std::int64_t prompt = 0;
      while (from + prompt < to && inputs.learned[static_cast<std::size_t>(from + prompt)] == 0) ++prompt;
      std::vector<std::uint8_t> learned(static_cast<std::size_t>(to - from), 1);
      std::fill_n(learned.begin(), prompt, std::uint8_t{0});
      writer.add({inputs.ids.data() + from, learned.size()}, learned);
      from = to;
    }
    writer.flush();
  }
  std::int64_t prompts = 0;
  for (std::int64_t i = 0; i < inputs.ends[99]; ++i) prompts += inputs.learned[static_cast<std::size_t>(i)] == 0;
  const auto state = [&](const std::string& key) {
    return "{\"key\": \"" + key +
           "\", \"documents_read\": 100, \"documents\": 100, \"tokens\": " + std::to_string(inputs.ends[99]) +
           ", \"prompt_tokens\": " + std::to_string(prompts) +
           ", \"chats\": 0, \"ignored_tools\": 0, \"empty_documents\": 0, \"text_bytes\": 5}";
  };
  write_bytes(options.prefix + ".progress.json", state("of something else"));
  CHECK_THROWS_WITH(run(*with, options), Contains("other files or other options"));
  write_bytes(options.prefix + ".progress.json", state(tokenize_key(*with, options)));
  const TokenizeProgress done = run(*with, options);
  CHECK(done.counts.documents == 501);
  for (const char* ending : {".ds", ".ds.index", ".ds.loss"})
    CHECK(read_bytes(options.prefix + ending) == read_bytes(inputs.folder / ("whole" + std::string(ending))));
}

TEST_CASE("lines that are no documents, and prompts without a place for masks, are refused by file and line",
          "[libraries]") {
  const auto with = tokenizer();
  const TemporaryFolder folder;
  TokenizeOptions options;
  options.files = {folder / "a.jsonl"};
  options.format = "megatron";
  options.prefix = folder / "out";
  options.threads = 2;
  const auto refused = [&](const std::string& text) {
    write_bytes(folder / "a.jsonl", text);
    fs::remove(folder / "out.progress.json");
    return message_of([&] { run(*with, options); });
  };
  CHECK_THAT(refused("{\"text\": \"a\"}\n{\"text\": 3}\n"), Contains("a.jsonl:2: the field text must be a string"));
  CHECK_THAT(refused("{\"text\": \"a\"}\n[1]\n"), Contains("a.jsonl:2: the line must be an object"));
  CHECK_THAT(refused("{\"text\": \"a\"\n"), Contains("a.jsonl:1: not valid JSON"));
  CHECK_THAT(refused("{\"messages\": []}\n"), Contains("no message"));
  CHECK_THAT(refused("{\"text\": \"a\", \"prompt\": \"b\"}\n"), Contains("both text and prompt"));
  CHECK_THAT(refused("{\"prompt\": \"a\", \"completion\": \"b\"}\n"), Contains("use datatrove"));
  CHECK_THAT(refused("\n"), Contains("nothing to write"));
  options.files = {folder / "missing.txt"};
  CHECK_THROWS_WITH(run(*with, options), Contains("missing.txt: no such file"));
}

TEST_CASE("chats, instructions and ids become tokens of which the assistant's are learned", "[libraries]") {
  const auto with = tokenizer();
  const TemporaryFolder folder;
  write_bytes(folder / "chats.jsonl",
              "{\"messages\": [{\"role\": \"system\", \"content\": \"Be brief.\"}, {\"role\": \"user\", \"content\": "
              "\"Why?\"}, {\"role\": \"assistant\", \"content\": \"So.\"}, {\"role\": \"user\", \"content\": "
              "[{\"type\": \"text\", \"text\": \"And\"}]}, {\"role\": \"assistant\", \"content\": \"No more.\"}]}\n"
              "{\"instruction\": \"Add.\", \"input\": \"1 2\", \"output\": \"3\"}\n"
              "{\"input_ids\": [5, 6, 7], \"labels\": [-100, 6, -100]}\n"
              "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", \"content\": null, "
              "\"tool_calls\": [{}]}, {\"role\": \"tool\", \"content\": \"r\"}, {\"role\": \"assistant\", \"content\": "
              "\"a\"}], \"tools\": [{}]}\n");
  const ChatFormat format = ChatFormat::named("chatml");
  TokenizeOptions options;
  options.files = {folder / "chats.jsonl"};
  options.format = "datatrove";
  options.prefix = folder / "out";
  options.end_token = 7;
  options.chat = &format;
  options.threads = 2;
  const TokenizeProgress done = run(*with, options);
  CHECK(done.counts.documents == 4);
  CHECK(done.chats == 3);
  CHECK(done.ignored_tools == 1);
  // What stands there, and what of it is learned.
  Ids ids, learned;
  const auto add = [&](const std::vector<std::pair<std::string, int>>& parts) {
    std::string whole;
    Ids apart;
    for (const auto& [text, label] : parts) {
      whole += text;
      for (const std::int32_t id : with->encode(text, {.special_tokens_in_text = true})) {
        apart.push_back(id);
        learned.push_back(label);
      }
    }
    const Ids together = with->encode(whole, {.special_tokens_in_text = true});
    REQUIRE(together == apart);  // the parts are cut where tokens are
    ids.insert(ids.end(), together.begin(), together.end());
  };
  add({{"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n", 0},
       {"So.<|im_end|>", 1},
       {"\n<|im_start|>user\nAnd<|im_end|>\n<|im_start|>assistant\n", 0},
       {"No more.<|im_end|>", 1},
       {"\n", 0}});
  add({{"<|im_start|>user\nAdd.\n1 2<|im_end|>\n<|im_start|>assistant\n", 0}, {"3<|im_end|>", 1}, {"\n", 0}});
  for (const std::int32_t id : {5, 6, 7}) {
    ids.push_back(id);
    learned.push_back(id == 6);
  }
  add({{"<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n", 0}, {"a<|im_end|>", 1}, {"\n", 0}});
  const TokenDataset dataset = open(folder / "out.ds", "datatrove", with->vocabulary_size());
  CHECK(ids_of(dataset) == ids);
  std::vector<std::uint8_t> mask(ids.size());
  dataset.read_loss_mask(0, dataset.size(), mask.data());
  CHECK(Ids(mask.begin(), mask.end()) == learned);
}

TEST_CASE("lines that are no chat of the format are refused with their line", "[libraries]") {
  const auto with = tokenizer();
  const TemporaryFolder folder;
  const ChatFormat format = ChatFormat::named("gemma");
  const auto tokenize = [&](const std::string& line, bool with_format = true) {
    write_bytes(folder / "x.jsonl", "{\"text\": \"first\"}\n" + line + "\n");
    TokenizeOptions options;
    options.files = {folder / "x.jsonl"};
    options.format = "datatrove";
    options.prefix = folder / "refused";
    options.chat = with_format ? &format : nullptr;
    run(*with, options);
  };
  CHECK_THROWS_WITH(tokenize(R"({"messages": [{"role": "user", "content": "a"}]})", false),
                    Contains("x.jsonl:2") && Contains("no chat template") && Contains("phi-3"));
  CHECK_THROWS_WITH(tokenize(R"({"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "a"}]})"),
                    Contains("x.jsonl:2") && Contains("no place for the role system"));
  CHECK_THROWS_WITH(tokenize(R"({"messages": [{"role": "user", "content": [{"type": "image"}]}]})"),
                    Contains("no text"));
  CHECK_THROWS_WITH(tokenize(R"({"messages": []})"), Contains("no message"));
  CHECK_THROWS_WITH(tokenize(R"({"messages": [], "text": "a"})"), Contains("both text and messages"));
  CHECK_THROWS_WITH(tokenize(R"({"instruction": "a"})"), Contains("no output"));
  CHECK_THROWS_WITH(tokenize(R"({"input_ids": [1, 2], "labels": [2, -100]})"), Contains("label 1 is 2 and its id 1"));
  CHECK_THROWS_WITH(tokenize(R"({"input_ids": [1, 2], "labels": [1]})"), Contains("each id has its label"));
  CHECK_THROWS_WITH(tokenize(R"({"input_ids": [100000]})"), Contains("is no token of"));
  CHECK_THROWS_WITH(tokenize(R"({"input_ids": [1.5]})"), Contains("list of token ids"));
  CHECK_THROWS_WITH(tokenize(R"({"other": 1})"), Contains("neither text"));
}
