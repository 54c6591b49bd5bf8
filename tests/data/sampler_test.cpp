#include "data/sampler.h"

#include <catch2/catch.hpp>
#include <set>
#include <vector>

#include "base/error.h"

using namespace longhaul;
using Catch::Contains;

TEST_CASE("the shuffle is a permutation, of every size") {
  std::vector<std::int64_t> sizes;
  for (std::int64_t size = 1; size <= 300; ++size) sizes.push_back(size);
  for (const std::int64_t size : {1023, 1024, 1025, 4095, 4096, 4097, 65537, 100003}) sizes.push_back(size);
  for (const std::int64_t size : sizes) {
    const Permutation permutation(size, 12345 + static_cast<std::uint64_t>(size));
    std::vector<bool> seen(static_cast<std::size_t>(size));
    bool whole = true;
    for (std::int64_t place = 0; place < size; ++place) {
      const std::int64_t element = permutation(place);
      whole = whole && element >= 0 && element < size && !seen[static_cast<std::size_t>(element)];
      if (!whole) break;
      seen[static_cast<std::size_t>(element)] = true;
    }
    CAPTURE(size);
    REQUIRE(whole);
  }
  const Permutation huge(std::int64_t{1} << 62, 1);
  CHECK(huge(0) != huge(1));
  CHECK(huge((std::int64_t{1} << 62) - 1) >= 0);
}

TEST_CASE("the shuffle mixes: no place keeps its neighbours, and every element goes everywhere") {
  const std::int64_t size = 10'000;
  const Permutation permutation(size, 7);
  int neighbours = 0, fixed = 0;
  for (std::int64_t place = 0; place + 1 < size; ++place) {
    neighbours += std::abs(permutation(place + 1) - permutation(place)) == 1;
    fixed += permutation(place) == place;
  }
  CHECK(neighbours < 15);  // about 2 are expected
  CHECK(fixed < 10);       // about 1
  // Where element 0 of 8 places comes from, over many keys: each about an eighth.
  std::vector<int> counts(8);
  for (std::uint64_t key = 0; key < 8000; ++key) ++counts[static_cast<std::size_t>(Permutation(8, key)(0))];
  for (const int count : counts) CHECK(std::abs(count - 1000) < 150);
}

TEST_CASE("the order depends on seed and epoch and on nothing else") {
  const auto order = [](std::uint64_t seed, std::int64_t epoch, bool shuffle = true) {
    const Sampler sampler(1001, 10, seed, shuffle);
    std::vector<std::int64_t> result;
    for (std::int64_t position = 0; position < sampler.samples(); ++position)
      result.push_back(sampler.sample(epoch, position));
    return result;
  };
  CHECK(order(1, 0) == order(1, 0));
  CHECK(order(1, 0) != order(2, 0));
  CHECK(order(1, 0) != order(1, 1));
  CHECK(order(1, 1) != order(2, 0));  // neighbouring seeds and epochs do not meet
  CHECK(order(0, 1) != order(1, 0));
  const auto plain = order(1, 3, false);
  for (std::size_t i = 0; i < plain.size(); ++i) CHECK(plain[i] == static_cast<std::int64_t>(i));
  // The numbers themselves: a change here breaks every resumed run.
  const Sampler sampler(1001, 10, 42);
  std::vector<std::int64_t> first;
  for (std::int64_t position = 0; position < 5; ++position) first.push_back(sampler.sample(0, position));
  CHECK(first == std::vector<std::int64_t>{49, 31, 12, 58, 47});
}

TEST_CASE("sample and tail sizes at the boundaries") {
  CHECK(Sampler(11, 10, 0).samples() == 1);
  CHECK(Sampler(11, 10, 0).dropped_tokens() == 0);
  CHECK(Sampler(20, 10, 0).samples() == 1);
  CHECK(Sampler(20, 10, 0).dropped_tokens() == 9);
  CHECK(Sampler(21, 10, 0).samples() == 2);
  CHECK(Sampler(2, 1, 0).samples() == 1);
  CHECK(Sampler((std::int64_t{1} << 40) + 1, 1 << 20, 0).samples() == 1 << 20);
  CHECK_THROWS_WITH(Sampler(10, 10, 0), Contains("10 tokens") && Contains("needs 11"));
  CHECK_THROWS_AS(Sampler(0, 1, 0), Error);
}

TEST_CASE("a cursor goes on where it stopped, over the end of an epoch") {
  const Sampler sampler(71, 10, 5);
  REQUIRE(sampler.samples() == 7);
  std::vector<std::int64_t> at_once(40);
  DataCursor cursor;
  sampler.take(cursor, at_once);
  CHECK(cursor == DataCursor{5, 5});
  std::vector<std::int64_t> pieces;
  DataCursor other;
  for (const std::size_t count : {3, 4, 20, 13}) {
    std::vector<std::int64_t> piece(count);
    DataCursor restored{other.epoch, other.position};  // as from a checkpoint
    sampler.take(restored, piece);
    other = restored;
    pieces.insert(pieces.end(), piece.begin(), piece.end());
  }
  CHECK(pieces == at_once);
  CHECK(other == cursor);
  for (int epoch = 0; epoch < 5; ++epoch)
    CHECK(std::set<std::int64_t>(at_once.begin() + epoch * 7, at_once.begin() + epoch * 7 + 7).size() == 7);
}
