// Ids as NumPy saves them, and without any header.
#include <catch2/catch.hpp>

#include "../io/temporary.h"
#include "base/error.h"
#include "data/dataset.h"
#include "data/token_writer.h"

using namespace longhaul;
using namespace longhaul_test;
using Catch::Contains;

namespace {

std::string npy(const std::string& dictionary, const std::string& ids, int version = 1) {
  std::string header = dictionary;
  const std::size_t before = version == 1 ? 10 : 12;
  while ((before + header.size() + 1) % 64 != 0) header += ' ';
  header += '\n';
  std::string bytes("\x93NUMPY", 6);
  bytes += static_cast<char>(version);
  bytes += '\0';
  bytes += version == 1 ? bytes_of(static_cast<std::uint16_t>(header.size()))
                        : bytes_of(static_cast<std::uint32_t>(header.size()));
  return bytes + header + ids;
}

std::string dictionary(const std::string& type, std::size_t count, const std::string& order = "False") {
  return fmt::format("{{'descr': '{}', 'fortran_order': {}, 'shape': ({},), }}", type, order, count);
}

std::vector<std::int32_t> tokens_of(const DatasetOptions& options) {
  const TokenDataset dataset(options);
  dataset.validate(0, dataset.size());
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(dataset.size()));
  dataset.read(0, dataset.size(), tokens.data());
  return tokens;
}

template <typename T>
std::string ids_as() {
  return bytes_of(std::vector<T>{1, 100, 99, 7});
}

const std::vector<std::int32_t> ids = {1, 100, 99, 7};

}  // namespace

TEST_CASE("npy: ids of every width are read; what is no list of ids is refused with what to do") {
  TemporaryFolder folder;
  const std::string file = folder / "a.npy";
  const auto read = [&](const std::string& bytes, std::int64_t vocabulary = 200) {
    write_bytes(file, bytes);
    return tokens_of({{file}, "npy", vocabulary, {}});
  };
  CHECK(read(npy(dictionary("|u1", 4), ids_as<std::uint8_t>())) == ids);
  CHECK(read(npy(dictionary("<u2", 4), ids_as<std::uint16_t>())) == ids);
  CHECK(read(npy(dictionary("<i2", 4), ids_as<std::int16_t>())) == ids);
  CHECK(read(npy(dictionary("<u4", 4), ids_as<std::uint32_t>(), 2)) == ids);
  CHECK(read(npy(dictionary("<i4", 4), ids_as<std::int32_t>(), 3)) == ids);
  CHECK(read(npy(dictionary("<i8", 4), ids_as<std::int64_t>())) == ids);
  CHECK(read(npy("{\"shape\": (4,), \"descr\": \"<u2\", \"fortran_order\": False}", ids_as<std::uint16_t>())) == ids);

  const auto refused = [&](const std::string& bytes, std::int64_t vocabulary = 200) {
    return message_of([&] { read(bytes, vocabulary); });
  };
  const std::string two = ids_as<std::uint16_t>();
  CHECK_THAT(refused(npy(dictionary(">u2", 4), two)), Contains(">u2, big-endian") && Contains("astype"));
  CHECK_THAT(refused(npy(dictionary("<f4", 4), two + two)), Contains("dtype is <f4"));
  CHECK_THAT(refused(npy(dictionary("<u8", 4), two + two + two + two)), Contains("dtype is <u8"));
  CHECK_THAT(refused(npy("{'descr': [('id', '<u2')], 'fortran_order': False, 'shape': (4,), }", two)),
             Contains("a structured one"));
  CHECK_THAT(refused(npy(dictionary("<u2", 4, "True"), two)), Contains("Fortran order"));
  CHECK_THAT(refused(npy("{'descr': '<u2', 'fortran_order': False, 'shape': (2, 2), }", two)),
             Contains("shape is (2, 2)") && Contains("ravel"));
  CHECK_THAT(refused(npy("{'descr': '<u2', 'fortran_order': False, 'shape': (), }", two)), Contains("shape is ()"));
  CHECK_THAT(refused(npy("{'descr': '<u2', 'fortran_order': False}", two)), Contains("has no shape"));
  CHECK_THAT(refused(npy("{'descr': '<u2' 'fortran_order'", two)), Contains("garbled"));
  CHECK_THAT(refused(npy(dictionary("<u2", 5), two)), Contains("truncated") && Contains("10 bytes") && Contains("8"));
  CHECK_THAT(refused(npy(dictionary("<u2", 3), two)), Contains("not what its header says"));
  CHECK_THAT(refused(npy(dictionary("<u2", 0), "")), Contains("holds no tokens"));
  CHECK_THAT(refused(npy(dictionary("<u2", 4), two), 100), Contains("token 100") && Contains("vocabulary of 100"));
  CHECK_THAT(refused(npy(dictionary("<u2", 4), two, 9)), Contains("version 9"));
  CHECK_THAT(refused("\x93NUMPY"), Contains("a NumPy array") || Contains("does not begin"));
  CHECK_THAT(refused(two + two + two), Contains("does not begin as a NumPy array"));
}

TEST_CASE("raw: the key says how wide an id is, or the vocabulary does and the log says so") {
  TemporaryFolder folder;
  const std::string file = folder / "a.bin";
  DatasetOptions options{{file}, "raw", 200, {}};
  write_bytes(file, ids_as<std::uint32_t>());
  options.token_bytes = 4;
  CHECK(tokens_of(options) == ids);
  CHECK(TokenDataset(options).guesses().empty());
  options.token_bytes = 2;
  CHECK(tokens_of(options) == std::vector<std::int32_t>{1, 0, 100, 0, 99, 0, 7, 0});
  options.token_bytes.reset();
  options.vocabulary = 70000;
  CHECK(tokens_of(options) == ids);
  options.vocabulary = 200;
  write_bytes(file, ids_as<std::uint16_t>());
  CHECK(tokens_of(options) == ids);
  REQUIRE(TokenDataset(options).guesses().size() == 1);
  CHECK_THAT(TokenDataset(options).guesses()[0], Contains("2 bytes") && Contains("data.token_bytes"));

  options.token_bytes = 4;
  write_bytes(file, "1234567");
  CHECK_THAT(message_of([&] { tokens_of(options); }), Contains("7 bytes") && Contains("tokens of 4 bytes"));
  write_bytes(file, "");
  CHECK_THAT(message_of([&] { tokens_of(options); }), Contains("holds no tokens"));
  write_bytes(file, npy(dictionary("<u2", 4), ids_as<std::uint16_t>()));
  CHECK_THAT(message_of([&] { tokens_of(options); }), Contains("a NumPy array"));
  options.vocabulary = 50;
  write_bytes(file, ids_as<std::uint32_t>());
  CHECK_THAT(message_of([&] { tokens_of(options); }), Contains("token 100"));
}

TEST_CASE("what is written as npy and raw is read again") {
  TemporaryFolder folder;
  for (const auto& [format, vocabulary] : {std::pair{"npy", 200}, {"npy", 70000}, {"raw", 200}, {"raw", 70000}}) {
    const std::string prefix = folder / fmt::format("{}-{}", format, vocabulary);
    TokenWriter writer(format, prefix, vocabulary, "a tokenizer", {});
    writer.add(std::vector<std::int32_t>{1, 100}, {});
    writer.add(std::vector<std::int32_t>{99, 7}, {});
    writer.finish();
    CHECK(tokens_of({{TokenWriter::output_file(format, prefix)}, format, vocabulary, {}}) == ids);
  }
  const std::vector<std::uint8_t> mask = {0, 1};
  TokenWriter writer("raw", folder / "masked", 200, "", {});
  CHECK_THAT(message_of([&] { writer.add(std::vector<std::int32_t>{1, 2}, mask); }), Contains("datatrove"));
}
