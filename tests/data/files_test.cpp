// Names of data files as users write them, and files that change under a run.
#include <catch2/catch.hpp>
#include <filesystem>

#include "../io/temporary.h"
#include "base/error.h"
#include "data/dataset.h"

using namespace longhaul;
using namespace longhaul_test;
using Catch::Contains;
namespace fs = std::filesystem;

namespace {

std::vector<std::int32_t> tokens_of(const TokenSource& source) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(source.size()));
  source.read(0, source.size(), tokens.data());
  return tokens;
}
std::string text_of(const std::vector<std::string>& files) {
  std::string text;
  for (const std::int32_t token : tokens_of(TokenDataset({files, "text", 256, -1}))) text += static_cast<char>(token);
  return text;
}
std::string refusal(const std::vector<std::string>& files, const std::string& format, std::int64_t vocabulary = 256) {
  return message_of([&] { TokenDataset dataset({files, format, vocabulary, {}}); });
}
std::string llmc(const std::vector<std::uint16_t>& tokens) {
  std::vector<std::int32_t> header(256);
  header[0] = 20240520;
  header[1] = 1;
  header[2] = static_cast<std::int32_t>(tokens.size());
  return bytes_of(header) + bytes_of(tokens);
}

}  // namespace

TEST_CASE("patterns and folders stand for files, sorted by their bytes") {
  TemporaryFolder folder;
  fs::create_directories(folder / "d/inner");
  for (const auto& [name, text] : {std::pair{"d/b.txt", "b"},
                                   {"d/B.txt", "B"},
                                   {"d/a10.txt", "2"},
                                   {"d/a1.txt", "1"},
                                   {"d/.hidden.txt", "h"},
                                   {"d/readme", "r"},
                                   {"d/inner/z.txt", "z"},
                                   {"[x].txt", "x"}})
    write_bytes(folder / name, text);
  CHECK(text_of({folder / "d"}) == "B12b");
  CHECK(text_of({folder / "d/*.txt"}) == "B12b");
  CHECK(text_of({folder / "*/[ab]*.txt"}) == "12b");
  CHECK(text_of({folder / "d/a?.txt", folder / "d/inner"}) == "1z");
  CHECK(text_of({folder / "[x].txt"}) == "x");                       // a name that exists is no pattern
  CHECK(text_of({folder / "d/b.txt", folder / "d/b.txt"}) == "bb");  // twice by hand
  CHECK_THAT(refusal({folder / "d", folder / "d/b*"}, "text"), Contains("b.txt") && Contains("more than one entry"));
  CHECK_THAT(refusal({folder / "none*"}, "text"), Contains("no file matches the pattern"));
  CHECK_THAT(refusal({folder / "d"}, "llmc"),
             Contains("without files of data.format llmc") && Contains(".bin") && Contains("B.txt, a1.txt"));
  CHECK_THAT(refusal({folder / "none.txt"}, "text"), Contains("No such file"));
}

TEST_CASE("a pattern means companions of token files not again") {
  TemporaryFolder folder;
  const std::vector<std::uint16_t> tokens = {1, 2, 3};
  for (const char* name : {"a", "b"}) {
    const std::string path = folder / name;
    write_bytes(path + ".bin", bytes_of(tokens));
    write_bytes(path + ".idx", std::string("MMIDIDX\0\0", 9) + bytes_of<std::uint64_t>(1) + bytes_of<std::uint8_t>(8) +
                                   bytes_of<std::uint64_t>(1) + bytes_of<std::uint64_t>(2) + bytes_of<std::int32_t>(3) +
                                   bytes_of<std::int64_t>(0) + bytes_of(std::vector<std::int64_t>{0, 1}));
    write_bytes(path + ".ds", bytes_of(tokens));
    write_bytes(path + ".ds.index", bytes_of<std::uint64_t>(3));
    write_bytes(path + ".ds.loss", "\1\1\1");
  }
  for (const std::string name : {"", "/?.[bi]*", "/?.bin"}) {
    INFO(name);
    CHECK(TokenDataset({{folder.path() + name}, "megatron", 256, {}}).size() == 6);
  }
  CHECK(TokenDataset({{folder / "*.ds*"}, "datatrove", 256, {}}).size() == 6);
  CHECK(TokenDataset({{folder / "*.ds*"}, "datatrove", 256, {}}).files() == 2);
}

TEST_CASE("tokens without a header given as llm.c's are called what they may be") {
  TemporaryFolder folder;
  std::vector<std::uint16_t> tokens(300);
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<std::uint16_t>(i * 7 % 250);
  write_bytes(folder / "train.bin", bytes_of(tokens));
  CHECK_THAT(refusal({folder / "train.bin"}, "llmc"),
             Contains("raw uint16 tokens without a header") && Contains("data.format: raw with data.token_bytes: 2"));
  CHECK(TokenDataset({{folder / "train.bin"}, "datatrove", 256, {}}).size() == 300);
  const std::vector<std::uint32_t> wide(tokens.begin(), tokens.end());
  write_bytes(folder / "wide.bin", bytes_of(wide));
  CHECK_THAT(refusal({folder / "wide.bin"}, "llmc"), Contains("raw uint32 tokens"));
  write_bytes(folder / "pointer.bin", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n");
  for (const std::string format : {"text", "jsonl", "llmc", "datatrove"})
    CHECK_THAT(refusal({folder / "pointer.bin"}, format), Contains("Git LFS pointer"));
}

TEST_CASE("token ids are checked every time they are read") {
  TemporaryFolder folder;
  const std::string path = folder / "t.bin";
  write_bytes(path, llmc({1, 2, 3, 4}));
  const TokenDataset dataset({{path}, "llmc", 100, {}});
  dataset.validate(0, 4);
  CHECK(tokens_of(dataset) == std::vector<std::int32_t>{1, 2, 3, 4});
  // In place and with its old time: only the tokens can tell.
  const auto time = fs::last_write_time(path);
  {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(1024 + 4);
    file.write("\x64\x00", 2);
  }
  fs::last_write_time(path, time);
  std::int32_t tokens[4];
  dataset.read(0, 2, tokens);
  CHECK_THROWS_WITH(dataset.read(1, 3, tokens),
                    Contains("t.bin: token 100 at byte 1028 (token number 2)") && Contains("vocabulary of 100"));
}

TEST_CASE("an id wider than 32 bits does not become another by being cut") {
  TemporaryFolder folder;
  const std::vector<std::int64_t> tokens = {1, 2, (std::int64_t{1} << 32) + 5};
  write_bytes(folder / "t.bin", bytes_of(tokens));
  write_bytes(folder / "t.idx", std::string("MMIDIDX\0\0", 9) + bytes_of<std::uint64_t>(1) + bytes_of<std::uint8_t>(5) +
                                    bytes_of<std::uint64_t>(1) + bytes_of<std::uint64_t>(2) +
                                    bytes_of<std::int32_t>(3) + bytes_of<std::int64_t>(0) +
                                    bytes_of(std::vector<std::int64_t>{0, 1}));
  const TokenDataset dataset({{folder / "t.bin"}, "megatron", 100, {}});
  std::int32_t read[3];
  CHECK_THROWS_WITH(dataset.read(0, 3, read), Contains("token 4294967301 at byte 16"));
}

TEST_CASE("files that change while they are read are refused by name, their companions too") {
  TemporaryFolder folder;
  std::int32_t tokens[8];
  write_bytes(folder / "a.txt", "abcdefgh");
  const TokenDataset text({{folder / "a.txt"}, "text", 256, {}});
  text.read(0, 8, tokens);
  write_bytes(folder / "a.txt", "abcd");
  CHECK_THROWS_WITH(text.read(0, 8, tokens), Contains("a.txt has 4 bytes; it had 8") && Contains("shortened"));

  write_bytes(folder / "a.jsonl", "{\"text\": \"abcdefgh\"}\n");
  const TokenDataset lines({{folder / "a.jsonl"}, "jsonl", 256, {}});
  lines.read(0, 8, tokens);
  fs::remove(folder / "a.jsonl");
  CHECK_THROWS_WITH(lines.read(0, 8, tokens), Contains("a.jsonl is gone"));

  write_bytes(folder / "a.ds", std::string("\1\0\2\0\3\0", 6));
  write_bytes(folder / "a.ds.index", bytes_of<std::uint64_t>(3));
  const TokenDataset pairs({{folder / "a.ds"}, "datatrove", 256, {}});
  pairs.read(0, 3, tokens);
  write_bytes(folder / "a.ds.index", bytes_of(std::vector<std::uint64_t>{1, 3}));
  CHECK_THROWS_WITH(pairs.read(0, 3, tokens), Contains("a.ds.index has 16 bytes; it had 8"));
}
