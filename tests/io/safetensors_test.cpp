#include "io/safetensors.h"

#include <sys/resource.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <random>

#include "base/error.h"
#include "io/file.h"
#include "temporary.h"

using namespace longhaul;
using namespace longhaul_test;
using Catch::Contains;

namespace {

std::string file_of(const std::string& header, const std::string& data) {
  return bytes_of(static_cast<std::uint64_t>(header.size())) + header + data;
}

std::string refusal(const std::string& bytes) {
  TemporaryFolder folder;
  write_bytes(folder / "x.safetensors", bytes);
  const std::string message = message_of([&] { SafetensorsReader reader(folder / "x.safetensors"); });
  if (!message.empty()) CHECK_THAT(message, Contains("x.safetensors"));
  return message;
}
std::string refusal(const std::string& header, const std::string& data) {
  return refusal(file_of(header, data));
}

const std::string eight = "12345678";

}  // namespace

TEST_CASE("a hand-made safetensors file reads back") {
  TemporaryFolder folder;
  const std::string path = folder / "a.safetensors";
  write_bytes(path, file_of(R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2],"data_offsets":[2,10]},)"
                            R"("a":{"dtype":"BF16","shape":[],"data_offsets":[0,2]},)"
                            R"("z":{"dtype":"I64","shape":[0,3],"data_offsets":[2,2]}}   )",
                            bytes_of<std::uint16_t>(0x3f80) + bytes_of(std::vector<float>{1.5f, -2.0f})));
  SafetensorsReader reader(path);
  REQUIRE(reader.tensors().size() == 3);
  CHECK(reader.metadata().at("format") == "pt");
  const auto& b = reader.at("b");
  CHECK(b.dtype == "F32");
  CHECK(b.shape == std::vector<std::int64_t>{2});
  float values[2];
  reader.read(b, 0, values, 8);
  CHECK(values[1] == -2.0f);
  CHECK(reader.at("a").shape.empty());
  CHECK(reader.at("a").bytes == 2);
  CHECK(reader.at("z").bytes == 0);
  CHECK(reader.find("c") == nullptr);
  CHECK_THROWS_WITH(reader.at("c"), Contains("a.safetensors holds no tensor 'c'"));
}

TEST_CASE("an empty safetensors file is legal") {
  CHECK(refusal("{}", "").empty());
}

TEST_CASE("garbled safetensors files are refused with the reason") {
  CHECK_THAT(refusal(""), Contains("header length") && Contains("truncated"));
  CHECK_THAT(refusal("abc"), Contains("header length"));
  CHECK_THAT(refusal(bytes_of<std::uint64_t>(50) + "{}"), Contains("needs 50 bytes at byte 8"));
  CHECK_THAT(refusal(bytes_of<std::uint64_t>(100'000'001) + "{}"), Contains("at most 100000000"));
  CHECK_THAT(refusal(bytes_of<std::uint64_t>(~0ull) + "{}"), Contains("18446744073709551615"));
  CHECK_THAT(refusal(bytes_of<std::uint64_t>(0)), Contains("begin with '{'"));
  CHECK_THAT(refusal(" {}", ""), Contains("begin with '{'"));
  CHECK_THAT(refusal("{}x", ""), Contains("not valid JSON"));
  CHECK_THAT(refusal("{", ""), Contains("not valid JSON"));
  CHECK_THAT(refusal("{\"\xff\":1}", ""), Contains("not valid JSON"));
  CHECK_THAT(refusal("{}", "x"), Contains("end at byte 0 of the data, which has 1"));
  CHECK_THAT(refusal(R"({"a":1})", ""), Contains("'a' of the header is the number 1"));
  CHECK_THAT(refusal(R"({"a":[1]})", ""), Contains("is a list"));
  CHECK_THAT(refusal(R"({"a":{"dtype":"F32","shape":[2]}})", eight), Contains("lacks data_offsets"));
  CHECK_THAT(refusal(R"({"a":{"shape":[2],"data_offsets":[0,8]}})", eight), Contains("lacks dtype"));
  CHECK_THAT(refusal(R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", eight), Contains("lacks shape"));
  CHECK_THAT(refusal(R"({"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}})", eight), Contains("F33"));
  CHECK_THAT(refusal(R"({"a":{"dtype":4,"shape":[2],"data_offsets":[0,8]}})", eight), Contains("a dtype name"));
  CHECK_THAT(refusal(R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", eight), Contains("-2"));
  CHECK_THAT(refusal(R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", eight), Contains("2.0"));
  CHECK_THAT(refusal(R"({"a":{"dtype":"F32","shape":[[2]],"data_offsets":[0,8]}})", eight), Contains("a list"));
  CHECK_THAT(refusal(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}})", eight), Contains("instead of 2"));
  CHECK_THAT(refusal(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", eight), Contains("[8, 0)"));
  CHECK_THAT(refusal(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"note":"x"}})", eight),
             Contains("'note'"));
  CHECK_THAT(refusal(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":{"b":0}}})", eight), Contains("an object"));
  CHECK_THAT(refusal(R"({"__metadata__":{"a":1}})", ""), Contains("'a' of '__metadata__'"));
  CHECK_THAT(refusal(R"({"__metadata__":{"a":{}}})", ""), Contains("an object"));
}

TEST_CASE("duplicate keys are refused at every level") {
  CHECK_THAT(refusal(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                     R"("a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
                     eight),
             Contains("'a' twice"));
  CHECK_THAT(refusal(R"({"a":{"dtype":"F32","dtype":"U8","shape":[8],"data_offsets":[0,8]}})", eight),
             Contains("'dtype' of 'a' twice"));
  CHECK_THAT(refusal(R"({"__metadata__":{"x":"1","x":"2"}})", ""), Contains("'x' of '__metadata__' twice"));
}

TEST_CASE("sizes that overflow or disagree are refused before anything is read") {
  const auto one = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"({"a":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
  };
  CHECK_THAT(refusal(one("F32", "[3]", "[0,8]"), eight), Contains("needs 12 bytes"));
  CHECK_THAT(refusal(one("F32", "[4294967296,4294967296]", "[0,8]"), eight), Contains("64 bits"));
  CHECK_THAT(refusal(one("F64", "[9223372036854775807]", "[0,8]"), eight), Contains("64 bits"));
  CHECK_THAT(refusal(one("F32", "[9223372036854775808]", "[0,8]"), eight), Contains("larger than any file"));
  CHECK_THAT(refusal(one("F32", "[18446744073709551616]", "[0,8]"), eight), Contains("18446744073709551616"));
  CHECK_THAT(refusal(one("F32", "[1e400]", "[0,8]"), eight), Contains("JSON"));
  CHECK_THAT(refusal(one("F32", "[2]", "[0,9223372036854775807]"), eight), Contains("truncated"));
  CHECK_THAT(refusal(one("F32", "[2]", "[0,8]"), "1234567"), Contains("truncated"));
  CHECK_THAT(refusal(one("F4", "[3]", "[0,2]"), "12"), Contains("end on a byte"));
  CHECK(refusal(one("F4", "[4]", "[0,2]"), "12").empty());
  CHECK(refusal(one("F6_E2M3", "[4]", "[0,3]"), "123").empty());
}

TEST_CASE("overlapping tensors and holes are refused") {
  const auto two = [](const std::string& first, const std::string& second) {
    return R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + first +
           R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + second + "}}";
  };
  CHECK(refusal(two("[4,8]", "[0,4]"), eight).empty());
  CHECK_THAT(refusal(two("[0,4]", "[3,7]"), eight), Contains("overlap"));
  CHECK_THAT(refusal(two("[0,4]", "[0,4]"), eight), Contains("overlap"));
  CHECK_THAT(refusal(two("[0,4]", "[5,9]"), eight + "9"), Contains("hole"));
  CHECK_THAT(refusal(two("[1,5]", "[5,9]"), eight + "9"), Contains("hole"));
}

TEST_CASE("random damage to a header never crashes the reader") {
  const std::string whole =
      file_of(R"({"__metadata__":{"format":"pt"},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
              R"("b":{"dtype":"F16","shape":[1,2],"data_offsets":[4,8]}})",
              eight);
  REQUIRE(refusal(whole).empty());
  std::mt19937 random(7);
  int refused = 0;
  for (int trial = 0; trial < 300; ++trial) {
    std::string damaged = whole;
    for (int hit = 0; hit < 2; ++hit) damaged[random() % damaged.size()] = static_cast<char>(random());
    if (trial % 3 == 0) damaged.resize(random() % damaged.size());
    refused += !refusal(damaged).empty();
  }
  CHECK(refused > 200);
}

TEST_CASE("the writer takes any byte range in any order and the reader agrees") {
  TemporaryFolder folder;
  const std::string path = folder / "w.safetensors";
  const std::vector<float> w{1, 2, 3, 4, 5, 6};
  SafetensorsWriter writer(path, {{"w", "F32", {2, 3}}, {"n", "BF16", {3}}, {"e", "F32", {0}}, {"a", "F32", {1}}});
  writer.write("w", 12, &w[3], 12);
  writer.write("n", 0, "abcdef", 6);
  writer.write("w", 4, &w[1], 8);
  CHECK_THROWS_WITH(writer.finish(), Contains("'a' was not written whole"));
  writer.write("a", 0, &w[5], 4);
  CHECK_THROWS_WITH(writer.finish(), Contains("'w' was not written whole"));
  CHECK_THROWS_AS(writer.write("w", 20, &w[0], 8), std::logic_error);
  CHECK_THROWS_AS(writer.write("q", 0, &w[0], 4), std::logic_error);
  CHECK_FALSE(std::filesystem::exists(path));
  writer.write("w", 0, &w[0], 4);
  writer.finish();
  CHECK(static_cast<std::int64_t>(std::filesystem::file_size(path)) == writer.file_bytes());
  SafetensorsReader reader(path);
  const auto bytes = [&](const char* name) {
    std::string read(static_cast<std::size_t>(reader.at(name).bytes), '\0');
    reader.read(reader.at(name), 0, read.data(), reader.at(name).bytes);
    return read;
  };
  CHECK(bytes("w") == bytes_of(w));
  CHECK(bytes("n") == "abcdef");
  CHECK_THROWS_AS(reader.read(reader.at("w"), 20, nullptr, 8), std::logic_error);
  CHECK(reader.at("w").shape == std::vector<std::int64_t>{2, 3});
  CHECK(reader.metadata().at("format") == "pt");
  // The header ends on 8 bytes and each tensor is aligned to its element.
  CHECK(reader.at("w").offset % 4 == 0);
  std::uint64_t header = 0;
  std::memcpy(&header, read_bytes(path).data(), 8);
  CHECK(header % 8 == 0);
}

TEST_CASE("the writer refuses what the format cannot hold") {
  TemporaryFolder folder;
  const std::string path = folder / "w.safetensors";
  CHECK_THROWS_WITH(SafetensorsWriter(path, {{"a", "F32", {1}}, {"a", "F32", {1}}}), Contains("twice"));
  CHECK_THROWS_WITH(SafetensorsWriter(path, {{"a", "F4", {2}}}), Contains("F4"));
  CHECK_THROWS_WITH(SafetensorsWriter(path, {{"a", "F32", {-1}}}), Contains("negative"));
  CHECK_THROWS_WITH(SafetensorsWriter(path, {{"a", "F32", {1ll << 40, 1ll << 40}}}), Contains("64 bits"));
  CHECK_THROWS_WITH(SafetensorsWriter(path, {{"__metadata__", "F32", {1}}}), Contains("reserves"));
  CHECK_THROWS_WITH(SafetensorsWriter(path, {{"\xff", "F32", {1}}}), Contains("UTF-8"));
  CHECK_FALSE(std::filesystem::exists(path + ".partial"));
}

TEST_CASE("an export that does not fit leaves the earlier file as it was") {
  TemporaryFolder folder;
  const std::string path = folder / "w.safetensors";
  write_bytes(path, "earlier");
  struct rlimit before {};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  auto* const handler = std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit small = before;
  small.rlim_cur = 4096;
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  const std::string message = message_of([&] { SafetensorsWriter(path, {{"a", "F32", {4096}}}); });
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  CHECK_THAT(message, Contains("w.safetensors") && Contains("File too large"));
  CHECK(read_bytes(path) == "earlier");
  CHECK_FALSE(std::filesystem::exists(path + ".partial"));
}

TEST_CASE("shards are joined by their index, which must agree with them") {
  TemporaryFolder folder;
  const auto shard = [&](const std::string& file, const std::string& tensor) {
    SafetensorsWriter writer(folder / file, {{tensor, "U8", {8}}});
    writer.write(tensor, 0, eight.data(), 8);
    writer.finish();
  };
  shard("model-00001-of-00002.safetensors", "a");
  shard("model-00002-of-00002.safetensors", "b");
  const std::string index = folder / "model.safetensors.index.json";
  const auto open = [&](const std::string& text) {
    write_bytes(index, text);
    return message_of([&] { SafetensorsReader reader(folder.path()); });
  };
  const std::string a = R"("a":"model-00001-of-00002.safetensors")", b = R"("b":"model-00002-of-00002.safetensors")";
  CHECK(open(R"({"metadata":{"total_size":16},"weight_map":{)" + a + "," + b + "}}").empty());
  CHECK(SafetensorsReader(folder.path()).tensors().size() == 2);
  CHECK(SafetensorsReader(index).at("b").bytes == 8);
  CHECK_THAT(open(R"({"weight_map":{)" + a + R"(,"c":"model-00002-of-00002.safetensors"}})"), Contains("'c'"));
  CHECK_THAT(open(R"({"weight_map":{)" + a + R"(,"b":"model-00001-of-00002.safetensors"}})"), Contains("'b'"));
  CHECK_THAT(open(R"({"weight_map":{)" + a + "," + a + "}}"), Contains("twice"));
  CHECK_THAT(open(R"({"weight_map":{"a":"../x.safetensors"}})"), Contains("own folder"));
  CHECK_THAT(open(R"({"weight_map":{"a":"none.safetensors"}})"), Contains("No such file"));
  CHECK_THAT(open(R"({"weights":{}})"), Contains("weight_map"));
  shard("model-00002-of-00002.safetensors", "a");
  CHECK_THAT(open(R"({"weight_map":{)" + a + R"(,"b":"model-00002-of-00002.safetensors"}})"), Contains("in both"));
  std::filesystem::remove(index);
  CHECK_THROWS_WITH(SafetensorsReader(folder.path()), Contains("'a' is in both"));
}

TEST_CASE("null for no metadata is taken, null elsewhere is not") {
  TemporaryFolder folder;
  const std::string path = folder / "n.safetensors";
  const std::string tensor = R"("a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]})";
  write_bytes(path, file_of(R"({"__metadata__":null,)" + tensor + "}", "xy"));
  const SafetensorsReader reader(path);
  CHECK(reader.metadata().empty());
  CHECK(reader.at("a").bytes == 2);
  write_bytes(path, file_of(R"({"__metadata__":{"format":null},)" + tensor + "}", "xy"));
  CHECK_THROWS_WITH(SafetensorsReader(path), Contains("null"));
  write_bytes(path, file_of(R"({"a":null})", ""));
  CHECK_THROWS_WITH(SafetensorsReader(path), Contains("'a'") && Contains("null"));
}

TEST_CASE("files that are no safetensors are called what they are") {
  TemporaryFolder folder;
  const std::string path = folder / "model.safetensors";
  const auto said = [&](const std::string& bytes) {
    write_bytes(path, bytes);
    return message_of([&] { SafetensorsReader reader(path); });
  };
  CHECK_THAT(said("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"),
             Contains("Git LFS pointer") && Contains("git lfs pull"));
  CHECK_THAT(said("PK\x03\x04" + std::string(60, 'x')), Contains("zip archive") && Contains("convert"));
  CHECK_THAT(said("\x80\x02" + std::string(60, '\xff')), Contains("Python pickle"));
  CHECK_THAT(said("<!DOCTYPE html><html>Sign in</html>"), Contains("web page"));
  CHECK_THAT(said("GGUF" + std::string(60, '\xff')), Contains("GGUF"));
  CHECK_THAT(said(""), Contains("0 bytes"));
  CHECK_THAT(said("abc"), Contains("3 bytes") && Contains("truncated"));
  // A header of 640 bytes begins with the bytes of a pickle.
  std::string header = R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})";
  header.resize(640, ' ');
  CHECK(said(file_of(header, "xy")).empty());
}

TEST_CASE("a folder is read where it is plain what is meant, else its files are named") {
  TemporaryFolder folder;
  const auto said = [&] { return message_of([&] { SafetensorsReader reader(folder.path()); }); };
  const auto tensor = [&](const std::string& file, const std::string& name) {
    write_bytes(folder / file, file_of("{\"" + name + R"(":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", "xy"));
  };
  CHECK_THAT(said(), Contains("no .safetensors file; it holds nothing"));
  write_bytes(folder / "pytorch_model.bin", "x");
  CHECK_THAT(said(), Contains("pytorch_model.bin") && Contains("convert pytorch_model.bin to safetensors"));
  write_bytes(folder / "consolidated.safetensors", "");
  CHECK_THAT(said(), Contains("consolidated.safetensors") && Contains("layout of their first publisher"));
  std::filesystem::remove(folder / "consolidated.safetensors");
  tensor("weights.safetensors", "a");
  CHECK(SafetensorsReader(folder.path()).find("a"));
  tensor("more.safetensors", "b");
  CHECK_THAT(said(), Contains("2 .safetensors files (more.safetensors, weights.safetensors)"));
  std::filesystem::remove(folder / "weights.safetensors");
  std::filesystem::remove(folder / "more.safetensors");
  // All shards of one set, without their index.
  tensor("model-00001-of-00002.safetensors", "a");
  tensor("model-00002-of-00002.safetensors", "b");
  CHECK(SafetensorsReader(folder.path()).tensors().size() == 2);
  tensor("model-00002-of-00003.safetensors", "c");
  CHECK_THAT(said(), Contains("3 .safetensors files") && Contains("speak of 2 shards"));
}
