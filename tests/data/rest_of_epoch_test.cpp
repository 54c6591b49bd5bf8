// What is left of an epoch when samples become longer, shorter or shuffled anew: every token once.
#include <catch2/catch.hpp>
#include <map>
#include <numeric>
#include <random>

#include "data/loader.h"
#include "data/rest_of_epoch.h"

namespace longhaul {
namespace {

// Token i is i; documents end at multiples of `document`, and every `masked`-th token is no label (0: none).
class Counting : public TokenSource {
 public:
  Counting(std::int64_t size, std::int64_t document, std::int64_t masked)
      : size_(size), document_(document), masked_(masked) {}
  std::int64_t size() const override { return size_; }
  void read(std::int64_t begin, std::int64_t count, std::int32_t* tokens) const override {
    std::iota(tokens, tokens + count, static_cast<std::int32_t>(begin));
  }
  bool has_loss_mask() const override { return masked_ > 0; }
  void read_loss_mask(std::int64_t begin, std::int64_t count, std::uint8_t* mask) const override {
    for (std::int64_t i = 0; i < count; ++i) mask[i] = masked_ == 0 || (begin + i) % masked_ != 0;
  }
  bool has_documents() const override { return true; }
  void document_ends(std::int64_t begin, std::int64_t end, std::vector<std::int64_t>& ends) const override {
    for (std::int64_t at = (begin / document_ + 1) * document_; at <= end; at += document_) ends.push_back(at);
  }

 private:
  std::int64_t size_, document_, masked_;
};

}  // namespace

TEST_CASE("the rest of an epoch has every token that was not taken once, whatever the lengths, again and again") {
  std::mt19937 random(7);
  const auto pick = [&](int least, int most) { return std::uniform_int_distribution<int>(least, most)(random); };
  for (int round = 0; round < 300; ++round) {
    const Counting source(pick(40, 400), pick(3, 30), pick(0, 1) ? pick(2, 5) : 0);
    const std::int64_t epoch = pick(0, 3);
    std::map<std::int32_t, int> times;
    std::vector<EarlierSamples> earlier;
    std::int64_t left_out = 0;
    for (int change = 0; change < 3; ++change) {
      const std::int64_t length = pick(1, 24);
      const auto seed = static_cast<std::uint64_t>(pick(0, 2));
      const Packing packing = pick(0, 1) ? Packing::documents : Packing::none;
      const RestOfEpoch rest(source, length, epoch, earlier);
      if (source.size() <= length) break;
      Sampler sampler(source.size(), length, seed);
      const bool first = earlier.empty();
      if (!first) sampler.set_rest(epoch, rest.first_sample(), rest.samples());
      SequenceLoader loader(first ? static_cast<const TokenSource&>(source) : rest, length, packing);
      const std::int64_t samples = sampler.samples(epoch);
      const std::int64_t taken = change == 2 ? samples : pick(0, static_cast<int>(samples));
      HostBatch batch;
      for (std::int64_t position = 0; position < taken; ++position) {
        const std::int64_t sample = sampler.sample(epoch, position);
        const std::int64_t valid =
            loader.fill(std::vector{sample}, contiguous_order(0, static_cast<std::int32_t>(length)), batch);
        CHECK(valid == loader.labels(sample));
        for (std::size_t i = 0; i < batch.tokens.size(); ++i) {
          const std::int32_t token = batch.tokens[i];
          ++times[token];
          // A label is the next token of the text, or none.
          if (batch.labels[i] != ignored_label) CHECK(batch.labels[i] == token + 1);
          // With packing nothing sees across a joint.
          if (packing == Packing::documents)
            CHECK(token - batch.tokens[i - static_cast<std::size_t>(batch.position[i])] == batch.position[i]);
        }
      }
      earlier.push_back({length, seed, taken});
      left_out = change == 2 ? (first ? source.size() : rest.tokens()) - samples * length : left_out;
      if (change == 2) CHECK(left_out <= length);
    }
    if (earlier.size() < 3) continue;
    for (const auto& [token, count] : times) CHECK(count == 1);
    CHECK(static_cast<std::int64_t>(times.size()) == source.size() - left_out);
  }
}

TEST_CASE("labels and cuts of a sample are counted as they are filled") {
  const Counting source(100, 10, 7);
  SequenceLoader packed(source, 16, Packing::documents), plain(source, 16);
  HostBatch batch;
  const auto order = contiguous_order(0, 16);
  for (std::int64_t sample = 0; sample < 6; ++sample) {
    CHECK(packed.fill(std::vector{sample}, order, batch) == packed.labels(sample));
    CHECK(plain.fill(std::vector{sample}, order, batch) == plain.labels(sample));
    CHECK_FALSE(plain.cut(sample).there);
    // Samples begin at 16 i, documents at multiples of 10.
    CHECK(packed.cut(sample).there == (sample != 0 && sample != 5));
    CHECK(packed.cut(sample).ends == packed.cut(sample).there);
  }
  const Counting one_long(100, 90, 0);
  SequenceLoader cut(one_long, 16, Packing::documents);
  CHECK(cut.cut(1).there);
  CHECK_FALSE(cut.cut(1).ends);
  CHECK(cut.cut(5).ends);
}

}  // namespace longhaul
