// data.format jsonl: what a line stands for, what is refused, and which labels data.mask_prompt leaves out.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <random>

#include "../io/temporary.h"
#include "base/error.h"
#include "data/dataset.h"
#include "data/loader.h"

using namespace longhaul;
using namespace longhaul_test;
using Catch::Contains;

namespace {

using Ints = std::vector<std::int32_t>;

DatasetOptions options(const std::string& file, bool mask_prompt = false, std::int64_t vocabulary = 257,
                       std::optional<std::int64_t> eos_token = {}) {
  return {{file}, "jsonl", vocabulary, eos_token, mask_prompt};
}

Ints tokens_of(const TokenSource& source) {
  Ints tokens(static_cast<std::size_t>(source.size()));
  source.read(0, source.size(), tokens.data());
  return tokens;
}

std::vector<std::int64_t> ends_of(const TokenSource& source) {
  std::vector<std::int64_t> ends;
  source.document_ends(0, source.size(), ends);
  return ends;
}

Ints bytes_and(const std::string& text, std::int32_t end) {
  Ints tokens;
  for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
  if (end >= 0) tokens.push_back(end);
  return tokens;
}

Ints joined(std::initializer_list<Ints> parts) {
  Ints all;
  for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

}  // namespace

TEST_CASE("every line of a JSONL file is a document of bytes, ended by the end token") {
  TemporaryFolder folder;
  const std::string file = folder / "a.jsonl";
  write_bytes(file,
              "\xef\xbb\xbf{\"text\": \"ab\"}\r\n"
              "\n \t\r\n"
              "{\"id\": [1, {\"text\": \"]}\"}], \"prompt\":\"\\u00e9\\n\", \"meta\": {\"a\": \"\\\"}\"}, "
              "\"completion\" : \"\\ud83d\\ude00\xc3\xa9\" }\n"
              "{\"text\": \"\"}\n"
              "{\"t\\u0065xt\": \"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0000\"}");  // no newline at the end
  const TokenDataset with(options(file));
  const std::string second = "\xc3\xa9\n\xf0\x9f\x98\x80\xc3\xa9", last("\"\\/\b\f\n\r\t\0", 9);
  CHECK(tokens_of(with) == joined({bytes_and("ab", 256), bytes_and(second, 256), {256}, bytes_and(last, 256)}));
  CHECK(ends_of(with) == std::vector<std::int64_t>{3, 13, 14, 24});
  CHECK(with.has_documents());
  CHECK_FALSE(with.has_loss_mask());
  with.validate(0, with.size());

  const TokenDataset without(options(file, false, 256));  // no room for an end token
  CHECK(tokens_of(without) == joined({bytes_and("ab", -1), bytes_and(second, -1), bytes_and(last, -1)}));
  CHECK(ends_of(without) == std::vector<std::int64_t>{2, 11, 20});
  CHECK(tokens_of(TokenDataset(options(file, false, 300, -1))) == tokens_of(without));
  CHECK(tokens_of(TokenDataset(options(file, false, 300, 299)))[2] == 299);
  CHECK(tokens_of(TokenDataset({{file, file}, "jsonl", 257, {}})) == joined({tokens_of(with), tokens_of(with)}));

  const Ints whole = tokens_of(with);
  for (std::int64_t begin = 0; begin <= with.size(); ++begin)
    for (std::int64_t count = 0; begin + count <= with.size(); ++count) {
      Ints part(static_cast<std::size_t>(count));
      with.read(begin, count, part.data());
      REQUIRE(std::equal(part.begin(), part.end(), whole.begin() + begin));
    }
}

TEST_CASE("strings of every kind, also very long ones, read as the JSON library reads them") {
  TemporaryFolder folder;
  std::mt19937 random(7);
  std::string file;
  Ints expected;
  const auto add = [&](std::size_t characters) {
    std::string text;
    for (std::size_t i = 0; i < characters; ++i) {
      const std::vector<std::string> kinds = {std::string(1, static_cast<char>(random() % 128)),
                                              "\xc3\xbc",
                                              "\xe2\x82\xac",
                                              "\xf0\x9f\x8c\x8d",
                                              "\"",
                                              "\\",
                                              "\n"};
      text += kinds[random() % kinds.size()];
    }
    const bool ascii = random() % 2;
    const nlohmann::json line =
        random() % 2 ? nlohmann::json{{"text", text}} : nlohmann::json{{"prompt", text}, {"completion", text + "."}};
    file += line.dump(-1, ' ', ascii) + "\n";
    const auto read = nlohmann::json::parse(line.dump(-1, ' ', ascii));
    const std::string stands_for = read.contains("text")
                                       ? read["text"].get<std::string>()
                                       : read["prompt"].get<std::string>() + read["completion"].get<std::string>();
    expected = joined({expected, bytes_and(stands_for, 256)});
  };
  for (int i = 0; i < 100; ++i) add(random() % 40);
  add(150000);  // several marks long
  add(3);
  write_bytes(folder / "a.jsonl", file);
  const TokenDataset dataset(options(folder / "a.jsonl"));
  REQUIRE(dataset.size() == static_cast<std::int64_t>(expected.size()));
  CHECK(tokens_of(dataset) == expected);
  for (int i = 0; i < 300; ++i) {
    const auto begin = static_cast<std::int64_t>(random() % expected.size());
    Ints part(std::min<std::size_t>(expected.size() - static_cast<std::size_t>(begin), random() % 100));
    dataset.read(begin, static_cast<std::int64_t>(part.size()), part.data());
    REQUIRE(std::equal(part.begin(), part.end(), expected.begin() + begin));
  }
}

TEST_CASE("lines that are no documents are refused by file and line") {
  TemporaryFolder folder;
  const std::string file = folder / "bad.jsonl";
  const auto with = [&](const std::string& line, std::int64_t vocabulary = 257, bool mask_prompt = false) {
    write_bytes(file, "{\"text\": \"fine\"}\n\n" + line + "\n{\"text\": \"fine\"}\n");
    return message_of([&] {
      const TokenDataset dataset(options(file, mask_prompt, vocabulary));
      dataset.validate(0, dataset.size());
    });
  };
  CHECK(with(R"({"text": "x"})").empty());
  for (const std::string line :
       {R"({"text": "x)", R"({"text": "x"} {"text": "y"})", R"({'text': 'x'})", "{\"text\": \"\xff\"}",
        R"({"text": "\x"})", "{\"text\": \"a\tb\"}", "plain text", "[1, 2", "{\"text\": \"x\"}\r{}"})
    CHECK_THAT(with(line), Contains("bad.jsonl:3: not valid JSON: column"));
  CHECK_THAT(with("plain text"), Contains("each line must be a JSON object"));
  CHECK_THAT(with(std::string("{\"text\": \"x\"}\0{}", 16)), Contains("bad.jsonl:3: ") && Contains("NUL"));
  CHECK_THAT(with("[1, 2]"), Contains(":3: the line is a list; it must be an object"));
  CHECK_THAT(with("\"text\""), Contains("a string; it must be an object"));
  CHECK_THAT(with("{}"), Contains(":3: it has neither text nor prompt and completion"));
  CHECK_THAT(with(R"({"messages": [], "id": 1})"), Contains("its fields are messages, id"));
  CHECK_THAT(with(R"({"prompt": "x"})"), Contains("prompt but no completion"));
  CHECK_THAT(with(R"({"completion": "x"})"), Contains("completion but no prompt"));
  CHECK_THAT(with(R"({"text": "x", "prompt": "y", "completion": "z"})"), Contains("both text and prompt"));
  CHECK_THAT(with(R"({"text": "x", "text": "y"})"), Contains("the field text stands twice"));
  CHECK_THAT(with(R"({"text": null})"), Contains("the field text is null; it must be a string"));
  CHECK_THAT(with(R"({"prompt": [{"role": "user"}], "completion": "z"})"), Contains("prompt is a list"));
  CHECK_THAT(with(R"({"text": "\u007f"})", 127), Contains("bad.jsonl:3: byte 127") && Contains("vocabulary of 127"));
  CHECK_THAT(with(R"({"text": "x"})", 257, true),
             Contains("data.mask_prompt is true, but no line") && Contains("bad.jsonl"));
  CHECK(with(R"({"prompt": "x", "completion": ""})", 257, true).empty());

  write_bytes(file, "");
  CHECK_THAT(message_of([&] { TokenDataset dataset(options(file)); }), Contains("holds no tokens"));
  write_bytes(file, "\n\n{\"text\": \"\"}\n");
  CHECK_THAT(message_of([&] { TokenDataset dataset(options(file, false, 256)); }), Contains("holds no tokens"));
  write_bytes(file, "\x1f\x8b\x08more");
  CHECK_THAT(message_of([&] { TokenDataset dataset(options(file)); }), Contains("gzip"));
  write_bytes(folder / "a.txt", "text");
  CHECK_THAT(message_of([&] {
               TokenDataset dataset({{folder / "a.txt"}, "text", 257, {}, true});
             }),
             Contains("data.mask_prompt") && Contains("jsonl"));
}

// Documents, with E the end token and prompts in small letters:  a b X Y E | c Z E | P Q R E | d e f g W E
TEST_CASE("labels that are prompt tokens are ignored, packed or not, in any order and on any number of ranks") {
  TemporaryFolder folder;
  write_bytes(folder / "a.jsonl",
              "{\"prompt\": \"ab\", \"completion\": \"XY\"}\n{\"prompt\": \"c\", \"completion\": \"Z\"}\n"
              "{\"text\": \"PQR\"}\n{\"completion\": \"W\", \"prompt\": \"defg\"}\n");
  const TokenDataset masked(options(folder / "a.jsonl", true)), plain(options(folder / "a.jsonl"));
  CHECK(masked.prompt_tokens() == 7);
  const std::int32_t E = 256, none = ignored_label;
  //                  tokens   a     b    X    Y  E     c    Z  E    P    Q    R  E     d     e     f     g    W
  const Ints packed_labels = {none, 'X', 'Y', E, none, 'Z', E, none, 'Q', 'R', E, none, none, none, none, 'W', E};
  const Ints loose_labels = {none, 'X', 'Y', E, none, 'Z', E, 'P', 'Q', 'R', E, none, none, none, none, 'W', E};
  const Ints starts = {0, 0, 0, 0, 0, 5, 5, 5, 8, 8, 8, 8, 12, 12, 12, 12, 12};
  const auto filled = [](const TokenSource& source, Packing packing, const std::vector<Ints>& orders) {
    SequenceLoader loader(source, 17, packing);
    const auto documents = loader.document_starts(0);
    CHECK(Ints(documents.begin(), documents.end()) == (packing == Packing::documents ? Ints{0, 5, 8, 12} : Ints{0}));
    Ints labels(17), key_start(17);
    std::int64_t valid = 0;
    for (const Ints& order : orders) {
      HostBatch batch;
      const std::vector<std::int64_t> samples = {0};
      valid += loader.fill(samples, order, batch);
      for (std::size_t i = 0; i < order.size(); ++i)
        if (order[i] < 17) {
          labels[static_cast<std::size_t>(order[i])] = batch.labels[i];
          key_start[static_cast<std::size_t>(order[i])] = batch.key_start[i];
        }
    }
    CHECK(valid == 17 - std::count(labels.begin(), labels.end(), ignored_label));
    return std::pair{labels, key_start};
  };
  const std::vector<std::vector<Ints>> splits = {
      {contiguous_order(0, 17)},
      {contiguous_order(0, 6), contiguous_order(6, 12), contiguous_order(12, 18)},
      {joined({contiguous_order(0, 5), contiguous_order(15, 20)}), contiguous_order(5, 15)},
      {{16, 3, 4, 9, 10, 11}, {0, 1, 2, 5, 15, 17}, {6, 7, 8, 12, 13, 14}}};
  for (const auto& orders : splits) {
    CHECK(filled(masked, Packing::documents, orders) == std::pair{packed_labels, starts});
    CHECK(filled(masked, Packing::none, orders) == std::pair{loose_labels, Ints(17, 0)});
    CHECK(filled(plain, Packing::documents, orders).first ==
          Ints{'b', 'X', 'Y', E, none, 'Z', E, none, 'Q', 'R', E, none, 'e', 'f', 'g', 'W', E});
  }
}

TEST_CASE("what Python's json module writes is read: numbers beyond the standard, half a pair, a mark on any line") {
  TemporaryFolder folder;
  const std::string file = folder / "python.jsonl";
  write_bytes(file,
              "{\"score\": NaN, \"text\": \"ab\"}\n"
              "{\"a\": [Infinity, -Infinity, 1e999, -1E+999, 1e-999], \"text\": \"NaN, Infinity 1e999\"}\n"
              "\xef\xbb\xbf{\"text\": \"x\\ud800y\"}\n"
              "{\"t\": \"\\udc00\", \"text\": \"\\udc00\\ud83d\\ude00\\ud800\\ud83d\\ude00\"}\n"
              "{\"n\": " +
                  std::string(400, '7') + ", \"text\": \"\\\\ud800\"}\n");
  const TokenDataset dataset(options(file));
  const std::string lost = "\xef\xbf\xbd", face = "\xf0\x9f\x98\x80";
  CHECK(tokens_of(dataset) ==
        joined({bytes_and("ab", 256), bytes_and("NaN, Infinity 1e999", 256), bytes_and("x" + lost + "y", 256),
                bytes_and(lost + face + lost + face, 256), bytes_and("\\ud800", 256)}));
  CHECK(dataset.lone_surrogates() == 3);
  const auto refused = [&](const std::string& line) {
    write_bytes(file, line);
    return message_of([&] { TokenDataset one(options(file)); });
  };
  for (const char* line :
       {"{\"n\": nan, \"text\": \"x\"}", "{\"n\": NaN1, \"text\": \"x\"}", "{\"n\": +1, \"text\": \"x\"}",
        "{\"n\": 01, \"text\": \"x\"}", "{\"n\": 1., \"text\": \"x\"}", "{\"n\": -, \"text\": \"x\"}",
        "{\"text\": \"\\ud8\"}", "{\"text\": \"\\ud800\\u12\"}", "{\"text\": NaN}"})
    CHECK_FALSE(refused(line).empty());
  CHECK_THAT(refused("{\"text\": NaN}"), Contains("text is a number"));
}
