#include "data/loader.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <random>

#include "../io/temporary.h"
#include "base/error.h"

using namespace longhaul;
using namespace longhaul_test;
using Catch::Contains;

namespace {

// Token i is 1000 + i; records which tokens were asked for.
class CountingSource : public TokenSource {
 public:
  explicit CountingSource(std::int64_t size) : size_(size), touched(static_cast<std::size_t>(size)) {}
  std::int64_t size() const override { return size_; }
  void read(std::int64_t begin, std::int64_t count, std::int32_t* tokens) const override {
    for (std::int64_t i = 0; i < count; ++i) {
      touched.at(static_cast<std::size_t>(begin + i)) = true;
      tokens[i] = static_cast<std::int32_t>(1000 + begin + i);
    }
  }
  bool has_loss_mask() const override { return !masked.empty(); }
  void read_loss_mask(std::int64_t begin, std::int64_t count, std::uint8_t* mask) const override {
    for (std::int64_t i = 0; i < count; ++i)
      mask[i] = std::find(masked.begin(), masked.end(), begin + i) == masked.end();
  }
  bool has_documents() const override { return !documents.empty(); }
  void document_ends(std::int64_t begin, std::int64_t end, std::vector<std::int64_t>& ends) const override {
    for (const auto e : documents)
      if (begin < e && e <= end) ends.push_back(e);
  }
  std::vector<std::int64_t> masked, documents;

 private:
  std::int64_t size_;

 public:
  mutable std::vector<bool> touched;
};

struct Buffers : HostBatch {
  std::int64_t valid = 0;
  bool operator==(const Buffers& other) const {
    for (const BatchField& field : batch_fields)
      if (this->*field.values != other.*field.values) return false;
    return valid == other.valid;
  }
};

Buffers load(SequenceLoader& loader, const std::vector<std::int64_t>& samples, const std::vector<std::int32_t>& order) {
  Buffers result;
  const std::size_t size = samples.size() * order.size();
  for (const BatchField& field : batch_fields) (result.*field.values).assign(size + 3, -12345);  // of another size
  result.valid = loader.fill(samples, order, result);
  for (const BatchField& field : batch_fields) CHECK((result.*field.values).size() == size);
  return result;
}

// The slices of one row, put back to their places in the padded sequence.
Buffers joined(SequenceLoader& loader, std::int64_t sample, const std::vector<std::vector<std::int32_t>>& orders) {
  std::size_t size = 0;
  for (const auto& order : orders) size += order.size();
  Buffers whole;
  for (auto* buffer : {&whole.tokens, &whole.labels, &whole.index, &whole.key_start, &whole.position})
    buffer->assign(size, -12345);
  for (const auto& order : orders) {
    const Buffers part = load(loader, {sample}, order);
    whole.valid += part.valid;
    for (std::size_t slot = 0; slot < order.size(); ++slot) {
      const auto place = static_cast<std::size_t>(order[slot]);
      whole.tokens[place] = part.tokens[slot];
      whole.labels[place] = part.labels[slot];
      whole.index[place] = part.index[slot];
      whole.key_start[place] = part.key_start[slot];
      whole.position[place] = part.position[slot];
    }
  }
  return whole;
}

using Ints = std::vector<std::int32_t>;

}  // namespace

TEST_CASE("samples share one token with their neighbours and labels are the next token") {
  const CountingSource source(9);
  SequenceLoader loader(source, 4);
  const Buffers batch = load(loader, {1, 0}, contiguous_order(0, 4));
  CHECK(batch.tokens == Ints{1004, 1005, 1006, 1007, 1000, 1001, 1002, 1003});
  CHECK(batch.labels == Ints{1005, 1006, 1007, 1008, 1001, 1002, 1003, 1004});
  CHECK(batch.index == Ints{0, 1, 2, 3, 0, 1, 2, 3});
  CHECK(batch.key_start == Ints(8, 0));
  CHECK(batch.position == batch.index);
  CHECK(batch.valid == 8);
  CHECK_THROWS_AS(load(loader, {2}, contiguous_order(0, 4)), std::logic_error);
  CHECK_THROWS_WITH(SequenceLoader(source, 0), Contains("training.seq_len 0"));
}

TEST_CASE("padding comes last, with token 0, ignored label, its own index as key_start, position 0") {
  const CountingSource source(100);
  SequenceLoader loader(source, 5);
  const Buffers batch = load(loader, {2}, contiguous_order(4, 8));
  CHECK(batch.tokens == Ints{1014, 0, 0, 0});
  CHECK(batch.labels == Ints{1015, ignored_label, ignored_label, ignored_label});
  CHECK(batch.index == Ints{4, 5, 6, 7});
  CHECK(batch.key_start == Ints{0, 5, 6, 7});
  CHECK(batch.position == Ints{4, 0, 0, 0});
  CHECK(batch.valid == 1);
  CHECK(load(loader, {2}, contiguous_order(5, 8)).valid == 0);
}

TEST_CASE("a rank touches its own slice and the one token after it") {
  for (const bool mask : {false, true}) {
    CountingSource source(101);
    if (mask) source.masked = {3};
    SequenceLoader loader(source, 20);
    load(loader, {3}, contiguous_order(5, 10));
    for (std::int64_t token = 0; token < 101; ++token)
      CHECK(source.touched[static_cast<std::size_t>(token)] == (token >= 65 && token <= 70));
  }
}

TEST_CASE("slices in any order put together equal the whole sequence, labels at the seams included") {
  CountingSource source(400);
  source.masked = {120, 125, 126, 133, 139, 140};
  for (const bool packed : {false, true}) {
    if (packed) source.documents = {17, 60, 122, 123, 130, 150, 155, 400};
    for (const std::int32_t length : {20, 19, 17, 1}) {
      SequenceLoader loader(source, length, packed ? Packing::documents : Packing::none);
      for (const std::int32_t ranks : {1, 2, 3, 4, 8}) {
        const std::int32_t slots = (length + ranks - 1) / ranks, padded = slots * ranks;
        for (const std::int64_t sample : {0, 6, 7}) {
          CAPTURE(packed, length, ranks, sample);
          const Buffers whole = load(loader, {sample}, contiguous_order(0, padded));
          std::vector<Ints> contiguous, zigzag, random(static_cast<std::size_t>(ranks));
          for (std::int32_t rank = 0; rank < ranks; ++rank)
            contiguous.push_back(contiguous_order(rank * slots, (rank + 1) * slots));
          CHECK(joined(loader, sample, contiguous) == whole);
          // Strided, as an extreme of orders that break every run.
          for (std::int32_t rank = 0; rank < ranks; ++rank) {
            Ints order;
            for (std::int32_t slot = 0; slot < slots; ++slot) order.push_back(slot * ranks + rank);
            zigzag.push_back(order);
          }
          CHECK(joined(loader, sample, zigzag) == whole);
          Ints all = contiguous_order(0, padded);
          std::mt19937 generator(3);
          std::shuffle(all.begin(), all.end(), generator);
          for (std::size_t i = 0; i < all.size(); ++i) random[i / static_cast<std::size_t>(slots)].push_back(all[i]);
          CHECK(joined(loader, sample, random) == whole);
        }
      }
    }
  }
}

TEST_CASE("a masked token is an ignored label, and still an input") {
  TemporaryFolder folder;
  write_bytes(folder / "d.ds", bytes_of(std::vector<std::uint16_t>{1, 2, 3, 4, 5, 6, 7, 8, 9}));
  write_bytes(folder / "d.ds.loss", std::string("\1\0\1\1\0\0\1\1\1", 9));
  const TokenDataset source({{folder / "d.ds"}, "datatrove", 100, {}});
  SequenceLoader loader(source, 4);
  const Buffers batch = load(loader, {0, 1}, contiguous_order(0, 4));
  CHECK(batch.tokens == Ints{1, 2, 3, 4, 5, 6, 7, 8});
  CHECK(batch.labels == Ints{-100, 3, 4, -100, -100, 7, 8, 9});
  CHECK(batch.valid == 5);
  // More tokens than one block of the mask: every third is masked.
  std::vector<std::uint16_t> tokens(10'001, 5);
  std::string mask(10'001, '\1');
  for (std::size_t i = 0; i < mask.size(); i += 3) mask[i] = '\0';
  write_bytes(folder / "e.ds", bytes_of(tokens));
  write_bytes(folder / "e.ds.loss", mask);
  const TokenDataset large({{folder / "e.ds"}, "datatrove", 100, {}});
  SequenceLoader large_loader(large, 10'000);
  const Buffers row = load(large_loader, {0}, contiguous_order(0, 10'000));
  for (std::size_t i = 0; i < 10'000; ++i) REQUIRE((row.labels[i] == ignored_label) == ((i + 1) % 3 == 0));
}

TEST_CASE("packed documents: key_start and position restart, and no label crosses a boundary") {
  CountingSource source(17);
  source.documents = {3, 4, 10, 16, 17};
  SequenceLoader loader(source, 8, Packing::documents);
  const Buffers batch = load(loader, {0, 1}, contiguous_order(0, 8));
  CHECK(batch.key_start == Ints{0, 0, 0, 3, 4, 4, 4, 4, /* document [4, 10) is split */ 0, 0, 2, 2, 2, 2, 2, 2});
  CHECK(batch.position == Ints{0, 1, 2, 0, 0, 1, 2, 3, 0, 1, 0, 1, 2, 3, 4, 5});
  CHECK(batch.labels ==
        Ints{1001, 1002, -100, -100, 1005, 1006, 1007, 1008, 1009, -100, 1011, 1012, 1013, 1014, 1015, -100});
  CHECK(batch.index == Ints{0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7});
  const CountingSource without(17);
  CHECK_THROWS_WITH(SequenceLoader(without, 8, Packing::documents), Contains("data.packing"));
}
