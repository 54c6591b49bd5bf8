#include "data/dataset.h"

#include <catch2/catch.hpp>
#include <numeric>

#include "../io/temporary.h"
#include "base/error.h"

using namespace longhaul;
using namespace longhaul_test;
using Catch::Contains;

namespace {

std::vector<std::int32_t> all_tokens(const TokenSource& source) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(source.size()));
  source.read(0, source.size(), tokens.data());
  return tokens;
}

std::vector<std::int64_t> all_ends(const TokenSource& source) {
  std::vector<std::int64_t> ends;
  source.document_ends(0, source.size(), ends);
  return ends;
}

std::string refusal(const std::vector<std::string>& files, const std::string& format, std::int64_t vocabulary = 1000) {
  return message_of([&] { TokenDataset dataset({files, format, vocabulary, {}}); });
}

std::string llmc(std::int32_t magic, std::int32_t version, std::int32_t count, const std::string& tokens) {
  std::vector<std::int32_t> header(256);
  header[0] = magic;
  header[1] = version;
  header[2] = count;
  return bytes_of(header) + tokens;
}

// The parts of a Megatron index; the defaults describe tokens of two bytes: sequences of 3, 2 and 4 tokens, documents
// {0} and {1, 2}.
struct MegatronIndex {
  std::string magic = std::string("MMIDIDX\0\0", 9);
  std::uint64_t version = 1;
  std::uint8_t code = 8;
  std::vector<std::int32_t> lengths{3, 2, 4};
  std::vector<std::int64_t> pointers{0, 6, 10};
  std::vector<std::int64_t> documents{0, 1, 3};
  std::string modes{};
  std::string text() const {
    return magic + bytes_of(version) + bytes_of(code) + bytes_of<std::uint64_t>(lengths.size()) +
           bytes_of<std::uint64_t>(documents.size()) + bytes_of(lengths) + bytes_of(pointers) + bytes_of(documents) +
           modes;
  }
};

const std::vector<std::uint16_t> nine{1, 2, 3, 4, 5, 6, 7, 8, 9};

}  // namespace

TEST_CASE("text files are one stream of bytes, with 256 between files when the vocabulary has it") {
  TemporaryFolder folder;
  write_bytes(folder / "a", "ab");
  write_bytes(folder / "b", "\xff\n");
  write_bytes(folder / "c", "z");
  const std::vector<std::string> files{folder / "a", folder / "b", folder / "c"};
  const TokenDataset with({files, "text", 257, {}});
  CHECK(all_tokens(with) == std::vector<std::int32_t>{'a', 'b', 256, 255, '\n', 256, 'z'});
  CHECK(all_ends(with) == std::vector<std::int64_t>{3, 6, 7});
  with.validate(0, with.size());
  const TokenDataset without({files, "text", 256, {}});
  CHECK(all_tokens(without) == std::vector<std::int32_t>{'a', 'b', 255, '\n', 'z'});
  CHECK(all_ends(without) == std::vector<std::int64_t>{2, 4, 5});
  const TokenDataset own({files, "text", 300, 10});
  CHECK(all_tokens(own)[2] == 10);
  // Any part of the stream reads as the whole does.
  const auto whole = all_tokens(with);
  for (std::int64_t begin = 0; begin <= with.size(); ++begin)
    for (std::int64_t count = 0; begin + count <= with.size(); ++count) {
      std::vector<std::int32_t> part(static_cast<std::size_t>(count));
      with.read(begin, count, part.data());
      CHECK(std::equal(part.begin(), part.end(), whole.begin() + begin));
    }
  CHECK_THROWS_AS(with.read(0, 8, nullptr), std::logic_error);
  std::vector<std::int64_t> ends;
  with.document_ends(3, 6, ends);
  CHECK(ends == std::vector<std::int64_t>{6});
}

TEST_CASE("text that is no text, or empty, or outside the vocabulary is refused") {
  TemporaryFolder folder;
  write_bytes(folder / "empty", "");
  write_bytes(folder / "gz", "\x1f\x8b\x08more");
  write_bytes(folder / "ascii", "abc\x7f");
  CHECK_THAT(refusal({folder / "empty"}, "text"), Contains("empty holds no tokens"));
  CHECK_THAT(refusal({folder / "none"}, "text"), Contains("none") && Contains("No such file"));
  CHECK_THAT(refusal({folder / "gz"}, "text"), Contains("gzip"));
  CHECK_THAT(refusal({}, "text"), Contains("data.files"));
  CHECK_THAT(refusal({folder / "ascii"}, "txt"), Contains("'txt'") && Contains("datatrove, jsonl, llmc, megatron"));
  CHECK_THROWS_WITH(TokenDataset({{folder / "ascii"}, "text", 128, 128}), Contains("data.eos_token 128"));
  const TokenDataset dataset({{folder / "ascii"}, "text", 127, {}});
  CHECK_THROWS_WITH(dataset.validate(0, 4),
                    Contains("ascii") && Contains("token 127 at byte 3") && Contains("vocabulary of 127"));
  dataset.validate(0, 3);
  write_bytes(folder / "llmc", llmc(20240520, 1, 9, bytes_of(nine)));
  CHECK_THAT(refusal({folder / "llmc"}, "text"), Contains("data.format: llmc"));
}

TEST_CASE("llm.c files of both token types read") {
  TemporaryFolder folder;
  write_bytes(folder / "two", llmc(20240520, 1, 9, bytes_of(nine)));
  write_bytes(folder / "four", llmc(20240801, 7, 2, bytes_of(std::vector<std::uint32_t>{128255, 7})));
  const TokenDataset dataset({{folder / "two"}, "llmc", 1000, {}});
  CHECK(all_tokens(dataset) == std::vector<std::int32_t>(nine.begin(), nine.end()));
  CHECK_FALSE(dataset.has_documents());
  CHECK_FALSE(dataset.has_loss_mask());
  const TokenDataset both({{folder / "two", folder / "four"}, "llmc", 128256, {}});
  CHECK(both.size() == 11);
  CHECK(all_tokens(both)[9] == 128255);
  both.validate(0, 11);
  const TokenDataset small({{folder / "two", folder / "four"}, "llmc", 128255, {}});
  small.validate(0, 9);
  CHECK_THROWS_WITH(small.validate(9, 11), Contains("four: token 128255 at byte 1024"));
}

TEST_CASE("truncated and mislabelled llm.c files are refused") {
  TemporaryFolder folder;
  const auto with = [&](const std::string& bytes) {
    write_bytes(folder / "x", bytes);
    return refusal({folder / "x"}, "llmc");
  };
  CHECK(with(llmc(20240520, 1, 9, bytes_of(nine))).empty());
  CHECK_THAT(with("abc"), Contains("truncated"));
  CHECK_THAT(with(llmc(20240520, 1, 9, "").substr(0, 1000)), Contains("truncated"));
  CHECK_THAT(with(llmc(20240520, 1, 10, bytes_of(nine))), Contains("1044 bytes") && Contains("truncated"));
  CHECK_THAT(with(llmc(20240520, 1, 8, bytes_of(nine))), Contains("not what its header says"));
  CHECK_THAT(with(llmc(20240520, 1, -1, bytes_of(nine))), Contains("is -1"));
  CHECK_THAT(with(llmc(20240520, 1, 0, "")), Contains("no tokens"));
  CHECK_THAT(with(llmc(20240520, 2, 9, bytes_of(nine))), Contains("version 2"));
  CHECK_THAT(with(llmc(20240801, 7, 9, bytes_of(nine))), Contains("uint32"));
  CHECK_THAT(with(llmc(20240522, 1, 9, bytes_of(nine))), Contains("evaluation file"));
  CHECK_THAT(with(llmc(20240326, 3, 9, bytes_of(nine))), Contains("model of llm.c"));
  CHECK_THAT(with(MegatronIndex{}.text() + std::string(1024, 'x')), Contains("Megatron index"));
}

TEST_CASE("Megatron files read with their documents, by either name or the prefix") {
  TemporaryFolder folder;
  write_bytes(folder / "m.bin", bytes_of(nine));
  write_bytes(folder / "m.idx", MegatronIndex{}.text());
  for (const char* name : {"m", "m.bin", "m.idx"}) {
    const TokenDataset dataset({{folder / name}, "megatron", 1000, {}});
    CHECK(all_tokens(dataset) == std::vector<std::int32_t>(nine.begin(), nine.end()));
    CHECK(all_ends(dataset) == std::vector<std::int64_t>{3, 9});
    dataset.validate(0, 9);
  }
  MegatronIndex with_modes;
  with_modes.modes = std::string(3, '\0');
  write_bytes(folder / "m.idx", with_modes.text());
  CHECK(refusal({folder / "m"}, "megatron").empty());
  // 32-bit tokens, one of them negative.
  write_bytes(folder / "n.bin", bytes_of(std::vector<std::int32_t>{1, -2, 70000}));
  const MegatronIndex wide{.code = 4, .lengths = {3}, .pointers = {0}, .documents = {0, 1}, .modes = ""};
  write_bytes(folder / "n.idx", wide.text());
  const TokenDataset dataset({{folder / "n"}, "megatron", 70001, {}});
  CHECK_THROWS_WITH(all_tokens(dataset), Contains("n.bin: token -2 at byte 4"));
  CHECK_THROWS_WITH(dataset.validate(0, 3), Contains("n.bin: token -2 at byte 4"));
  dataset.validate(2, 3);
}

TEST_CASE("garbled Megatron files are refused") {
  TemporaryFolder folder;
  write_bytes(folder / "m.bin", bytes_of(nine));
  const auto with = [&](const std::string& text) {
    write_bytes(folder / "m.idx", text);
    return refusal({folder / "m"}, "megatron");
  };
  const auto changed = [&](auto&& change) {
    MegatronIndex index;
    change(index);
    return with(index.text());
  };
  CHECK(with(MegatronIndex{}.text()).empty());
  CHECK_THAT(with(""), Contains("m.idx") && Contains("truncated"));
  CHECK_THAT(with(MegatronIndex{}.text().substr(0, 20)), Contains("truncated"));
  CHECK_THAT(with(MegatronIndex{}.text().substr(0, 60)), Contains("truncated"));
  CHECK_THAT(with(MegatronIndex{}.text() + "ab"), Contains("garbled"));
  CHECK_THAT(changed([](auto& index) { index.magic[3] = 'X'; }), Contains("magic"));
  CHECK_THAT(changed([](auto& index) { index.version = 2; }), Contains("version 2 at byte 9"));
  CHECK_THAT(changed([](auto& index) { index.code = 7; }), Contains("dtype code 7"));
  CHECK_THAT(changed([](auto& index) { index.code = 4; }), Contains("m.bin") && Contains("int32"));
  CHECK_THAT(changed([](auto& index) { index.lengths.back() = 5; }), Contains("18 bytes"));
  CHECK_THAT(changed([](auto& index) { index.documents.back() = 2; }), Contains("0 to 2"));
  CHECK_THAT(changed([](auto& index) { index.documents.front() = 1; }), Contains("from sequence 1"));
  CHECK_THAT(changed([](auto& index) { index.lengths = {}, index.pointers = {}, index.documents = {0}; }),
             Contains("0 sequences"));
  std::string huge = MegatronIndex{}.text();
  for (int i = 18; i < 34; ++i) huge[static_cast<std::size_t>(i)] = '\xff';
  CHECK_THAT(with(huge), Contains("do not fit"));
  std::string wrap = MegatronIndex{}.text();  // 12 * 2^62 + ... wraps to a small number in 64 bits
  wrap[25] = '\x40';
  CHECK_THAT(with(wrap), Contains("do not fit"));
  // What only the scan finds: a sequence in the middle that does not follow the one before it, a document that ends
  // before it begins.
  const auto scanned = [&](auto&& change) {
    CHECK(changed(change).empty());
    const TokenDataset dataset({{folder / "m"}, "megatron", 1000, {}});
    return message_of([&] {
      for (std::int64_t token = 0; token < 9; ++token) dataset.validate(token, token + 1);
    });
  };
  CHECK(scanned([](auto&) {}).empty());
  CHECK_THAT(scanned([](auto& index) { index.pointers[1] = 8; }), Contains("sequence 0"));
  CHECK_THAT(scanned([](auto& index) { index.lengths[1] = 3; }), Contains("sequence 1"));
  CHECK_THAT(scanned([](auto& index) { index.documents = {0, 2, 1, 3}; }), Contains("before it begins"));
  CHECK_THAT(scanned([](auto& index) { index.documents = {0, 9, 3}; }), Contains("sequence 9 of 3"));
  std::filesystem::remove(folder / "m.idx");
  CHECK_THAT(refusal({folder / "m.bin"}, "megatron"), Contains("m.idx") && Contains("No such file"));
}

TEST_CASE("datatrove files take their token size from metadata, index or loss file, and carry a loss mask") {
  TemporaryFolder folder;
  const std::string path = folder / "d.ds";
  write_bytes(path, bytes_of(nine));
  const TokenDataset bare({{path}, "datatrove", 1000, {}});
  CHECK(bare.size() == 9);
  CHECK_FALSE(bare.has_documents());
  write_bytes(path + ".index", bytes_of(std::vector<std::uint64_t>{4, 4, 9}));
  write_bytes(path + ".loss", std::string("\1\0\1\1\1\0\0\1\1", 9));
  write_bytes(path + ".metadata", "some|tokenizer|2\n9\n9.00 T");
  const TokenDataset dataset({{path}, "datatrove", 100000, {}});
  CHECK(all_tokens(dataset) == std::vector<std::int32_t>(nine.begin(), nine.end()));
  CHECK(all_ends(dataset) == std::vector<std::int64_t>{4, 9});
  REQUIRE(dataset.has_loss_mask());
  std::vector<std::uint8_t> mask(4, 7);
  dataset.read_loss_mask(4, 4, mask.data());
  CHECK(mask == std::vector<std::uint8_t>{1, 0, 0, 1});
  dataset.validate(0, 9);
  std::filesystem::remove(path + ".metadata");
  CHECK(TokenDataset({{path}, "datatrove", 100000, {}}).size() == 9);
  // Four bytes a token, though the vocabulary would fit two.
  write_bytes(path, bytes_of(std::vector<std::uint32_t>(nine.begin(), nine.end())));
  CHECK(all_tokens(TokenDataset({{path}, "datatrove", 1000, {}}))[8] == 9);
}

TEST_CASE("datatrove files that disagree with each other are refused") {
  TemporaryFolder folder;
  const std::string path = folder / "d.ds";
  write_bytes(path, bytes_of(nine));
  const auto with = [&](const char* suffix, const std::string& bytes) {
    write_bytes(path + suffix, bytes);
    const std::string message = refusal({path}, "datatrove");
    std::filesystem::remove(path + suffix);
    return message;
  };
  CHECK_THAT(with(".index", bytes_of(std::vector<std::uint64_t>{4, 8})), Contains("d.ds.index") && Contains("8, as"));
  CHECK_THAT(with(".index", bytes_of(std::vector<std::uint64_t>{1ull << 40})), Contains("1099511627776"));
  CHECK_THAT(with(".index", "1234567"), Contains("truncated"));
  CHECK_THAT(with(".loss", "12345678"), Contains("d.ds.loss"));
  CHECK_THAT(with(".metadata", "t|2\n8\n"), Contains("d.ds.metadata"));
  CHECK_THAT(with(".metadata", "t|4\n9\n"), Contains("4 bytes"));
  CHECK_THAT(with(".metadata", "t|3\n9\n"), Contains("'3' bytes"));
  CHECK_THAT(with(".metadata", "t|2\nnine\n"), Contains("'nine'"));
  CHECK_THAT(with(".metadata", ""), Contains("token count"));
  write_bytes(path + ".loss", "123456789");
  CHECK_THAT(with(".index", bytes_of(std::vector<std::uint64_t>{8})), Contains("8 tokens by") && Contains("9 by"));
  std::filesystem::remove(path + ".loss");
  write_bytes(path, "123");
  CHECK_THAT(refusal({path}, "datatrove"), Contains("3 bytes"));
  write_bytes(path, "");
  CHECK_THAT(refusal({path}, "datatrove"), Contains("no tokens"));
  // A document that ends before it begins is found by the scan.
  write_bytes(path, bytes_of(nine));
  write_bytes(path + ".index", bytes_of(std::vector<std::uint64_t>{6, 4, 9}));
  const TokenDataset dataset({{path}, "datatrove", 1000, {}});
  CHECK_THROWS_WITH(dataset.validate(0, 9), Contains("document 1 ends at token 4"));
}

TEST_CASE("a scan shared by ranks finds the one bad token of a large file, in its part only") {
  TemporaryFolder folder;
  std::vector<std::uint16_t> tokens(300'000, 49);
  tokens[200'001] = 50;
  write_bytes(folder / "x.ds", bytes_of(tokens));
  const TokenDataset dataset({{folder / "x.ds"}, "datatrove", 50, {}});
  int refused = 0;
  for (std::int64_t part = 0; part < 7; ++part) {
    const std::string message = message_of([&] { dataset.validate(300'000 * part / 7, 300'000 * (part + 1) / 7); });
    if (message.empty()) continue;
    ++refused;
    CHECK_THAT(message, Contains("x.ds: token 50 at byte 400002 (token number 200001)"));
  }
  CHECK(refused == 1);
}
