// Documents packed whole into samples, against a plain search and against the documents themselves.
#include "data/packed_tokens.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <random>

#include "base/error.h"
#include "data/loader.h"
#include "data/sampler.h"

using namespace longhaul;
using Catch::Contains;

namespace {

// Token i is 1 + i; every third is no label.
class Documents : public TokenSource {
 public:
  explicit Documents(std::vector<std::int64_t> lengths) {
    for (const std::int64_t length : lengths) ends_.push_back((ends_.empty() ? 0 : ends_.back()) + length);
  }
  std::int64_t size() const override { return ends_.back(); }
  void read(std::int64_t begin, std::int64_t count, std::int32_t* tokens) const override {
    for (std::int64_t i = 0; i < count; ++i) tokens[i] = static_cast<std::int32_t>(1 + begin + i);
  }
  bool has_loss_mask() const override { return true; }
  void read_loss_mask(std::int64_t begin, std::int64_t count, std::uint8_t* mask) const override {
    for (std::int64_t i = 0; i < count; ++i) mask[i] = (begin + i) % 3 != 0;
  }
  bool has_documents() const override { return true; }
  void document_ends(std::int64_t begin, std::int64_t end, std::vector<std::int64_t>& ends) const override {
    for (const auto e : ends_)
      if (begin < e && e <= end) ends.push_back(e);
  }

 private:
  std::vector<std::int64_t> ends_;
};

// Best fit decreasing by looking at every sample: which holds each document (or piece), in the order of placing.
std::vector<std::vector<std::int64_t>> plain_packing(const std::vector<std::int64_t>& lengths, std::int64_t size) {
  std::vector<std::size_t> order(lengths.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return lengths[a] > lengths[b]; });
  std::vector<std::vector<std::int64_t>> samples;
  std::vector<std::int64_t> room;
  for (const std::size_t i : order) {
    std::size_t best = room.size();
    for (std::size_t s = 0; s < room.size(); ++s)
      if (room[s] >= lengths[i] && (best == room.size() || room[s] < room[best])) best = s;
    if (best == room.size()) {
      room.push_back(size);
      samples.emplace_back();
    }
    room[best] -= lengths[i];
    samples[best].push_back(static_cast<std::int64_t>(i));
  }
  return samples;
}

std::vector<std::int32_t> all_tokens(const TokenSource& source) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(source.size()));
  source.read(0, source.size(), tokens.data());
  return tokens;
}

}  // namespace

TEST_CASE("packed samples hold what a plain search puts there, whole and with their labels") {
  std::mt19937 random(4);
  for (int round = 0; round < 30; ++round) {
    const std::int64_t size = 5 + static_cast<std::int64_t>(random() % 40);
    std::vector<std::int64_t> lengths(1 + random() % 200);
    for (auto& one : lengths) one = 1 + static_cast<std::int64_t>(random() % static_cast<unsigned>(size));
    const Documents documents(lengths);
    const PackedTokens packed(documents, size, LongDocuments::split);
    const auto expected = plain_packing(lengths, size);
    REQUIRE(packed.size() == static_cast<std::int64_t>(expected.size()) * size + 1);
    std::vector<std::int64_t> begins(lengths.size());
    for (std::size_t i = 1; i < lengths.size(); ++i) begins[i] = begins[i - 1] + lengths[i - 1];
    std::vector<std::int32_t> tokens;
    std::vector<std::uint8_t> mask;
    std::vector<std::int64_t> ends;
    for (const auto& sample : expected) {
      for (const std::int64_t i : sample) {
        const auto document = static_cast<std::size_t>(i);
        for (std::int64_t t = 0; t < lengths[document]; ++t) {
          tokens.push_back(static_cast<std::int32_t>(1 + begins[document] + t));
          mask.push_back((begins[document] + t) % 3 != 0);
        }
        ends.push_back(static_cast<std::int64_t>(tokens.size()));
      }
      const std::size_t full = (tokens.size() + static_cast<std::size_t>(size) - 1) / static_cast<std::size_t>(size) *
                               static_cast<std::size_t>(size);
      if (tokens.size() < full) ends.push_back(static_cast<std::int64_t>(full));
      tokens.resize(full, 0);
      mask.resize(full, 0);
    }
    CHECK(packed.counts().padding == std::count(tokens.begin(), tokens.end(), 0));
    CHECK(packed.counts().documents == static_cast<std::int64_t>(lengths.size()));
    CHECK(packed.counts().longest == *std::max_element(lengths.begin(), lengths.end()));
    CHECK(packed.counts().longer == 0);
    tokens.push_back(0);
    mask.push_back(0);
    CHECK(all_tokens(packed) == tokens);
    // Any part of it.
    for (int i = 0; i < 20; ++i) {
      const auto begin = static_cast<std::int64_t>(random() % tokens.size());
      const auto count = static_cast<std::int64_t>(random() % (tokens.size() - static_cast<std::size_t>(begin) + 1));
      std::vector<std::int32_t> some(static_cast<std::size_t>(count));
      std::vector<std::uint8_t> bytes(some.size());
      std::vector<std::int64_t> ended, wanted;
      packed.read(begin, count, some.data());
      packed.read_loss_mask(begin, count, bytes.data());
      packed.document_ends(begin, begin + count, ended);
      for (const auto end : ends)
        if (begin < end && end <= begin + count) wanted.push_back(end);
      CHECK(std::equal(some.begin(), some.end(), tokens.begin() + begin));
      CHECK(std::equal(bytes.begin(), bytes.end(), mask.begin() + begin));
      CHECK(ended == wanted);
    }
  }
}

TEST_CASE("documents longer than a sample are split, cut to it or left out, and counted") {
  const Documents documents({3, 25, 10, 4});
  const PackedTokens split(documents, 10, LongDocuments::split);
  // 25 becomes 10, 10 and 5, which 4 joins; 10 and 3 have a sample each.
  CHECK(split.counts().samples == 5);
  CHECK(split.counts().longer == 1);
  CHECK(split.counts().lost_tokens == 0);
  CHECK(split.counts().padding == 5 * 10 - 42);
  auto tokens = all_tokens(split);
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::remove(tokens.begin(), tokens.end(), 0), tokens.end());
  CHECK(tokens.size() == 42);
  CHECK(std::adjacent_find(tokens.begin(), tokens.end()) == tokens.end());

  const PackedTokens cut(documents, 10, LongDocuments::truncate);
  CHECK(cut.counts().lost_tokens == 15);
  CHECK(cut.counts().samples == 3);
  const PackedTokens without(documents, 10, LongDocuments::skip);
  CHECK(without.counts().lost_tokens == 25);
  CHECK(without.counts().samples == 2);
  CHECK(without.counts().padding == 3);
  CHECK_THROWS_WITH(PackedTokens(documents, 2, LongDocuments::skip), Contains("all 4 documents are longer"));
}

TEST_CASE("windows bound what is packed together") {
  const Documents documents({6, 6, 4, 4});
  CHECK(PackedTokens(documents, 10, LongDocuments::split).counts().samples == 2);
  CHECK(PackedTokens(documents, 10, LongDocuments::split, 2).counts().samples == 3);
}

TEST_CASE("a packed sample's labels stay within its documents") {
  const Documents documents({4, 3, 2});
  const PackedTokens packed(documents, 8, LongDocuments::split);
  REQUIRE(packed.counts().samples == 2);  // 4 and 3 leave one; 2 begins another
  SequenceLoader loader(packed, 8, Packing::documents);
  HostBatch batch;
  const std::vector<std::int64_t> samples = {0, 1};
  const std::vector<std::int32_t> order = contiguous_order(0, 8);
  // Labels are the next token, where it is a label at all (every third is none) and of the same document.
  const std::int64_t valid = loader.fill(samples, order, batch);
  const std::int32_t no = ignored_label;
  CHECK(batch.tokens == std::vector<std::int32_t>{1, 2, 3, 4, 5, 6, 7, 0, 8, 9, 0, 0, 0, 0, 0, 0});
  CHECK(batch.labels == std::vector<std::int32_t>{2, 3, no, no, 6, no, no, no, 9, no, no, no, no, no, no, no});
  CHECK(batch.key_start == std::vector<std::int32_t>{0, 0, 0, 0, 4, 4, 4, 7, 0, 0, 2, 2, 2, 2, 2, 2});
  CHECK(valid == 4);
  CHECK(Sampler(packed.size(), 8, 1).samples() == 2);
}
