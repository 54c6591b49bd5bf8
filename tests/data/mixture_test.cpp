// Mixtures: exact over every prefix, and samples of each source as they are in it.
#include "data/mixture.h"

#include <catch2/catch.hpp>
#include <cmath>

#include "data/loader.h"
#include "model/initialise.h"

using namespace longhaul;

namespace {

std::vector<SourceCursor> cursors_of(std::size_t count) {
  return std::vector<SourceCursor>(count);
}

// Ids that tell where they are; documents of `length` tokens, every fifth token no label.
class Numbered : public TokenSource {
 public:
  Numbered(std::int64_t size, std::int32_t first, std::int64_t length, bool mask)
      : size_(size), first_(first), length_(length), mask_(mask) {}
  std::int64_t size() const override { return size_; }
  void read(std::int64_t begin, std::int64_t count, std::int32_t* tokens) const override {
    REQUIRE(begin + count <= size_);
    for (std::int64_t i = 0; i < count; ++i) tokens[i] = first_ + static_cast<std::int32_t>(begin + i);
  }
  bool has_loss_mask() const override { return mask_; }
  void read_loss_mask(std::int64_t begin, std::int64_t count, std::uint8_t* mask) const override {
    if (!mask_) return TokenSource::read_loss_mask(begin, count, mask);
    for (std::int64_t i = 0; i < count; ++i) mask[i] = (begin + i) % 5 != 0;
  }
  bool has_documents() const override { return length_ > 0; }
  void document_ends(std::int64_t begin, std::int64_t end, std::vector<std::int64_t>& ends) const override {
    for (std::int64_t e = begin + 1; e <= end; ++e)
      if (e % length_ == 0 || e == size_) ends.push_back(e);
  }

 private:
  std::int64_t size_;
  std::int32_t first_;
  std::int64_t length_;
  bool mask_;
};

}  // namespace

TEST_CASE("of any first samples every source has its share, up to less than one") {
  std::vector<std::vector<double>> mixtures = {{1}, {1, 1}, {0.7, 0.3}, {1, 1, 1}, {1000, 1, 1}, {5, 3, 2, 1e-3}};
  for (std::uint32_t i = 0; i < 60; ++i) {
    std::vector<double> weights;
    for (std::uint32_t k = 0; k < 2 + i % 8; ++k)
      weights.push_back(std::exp2(static_cast<double>(philox({i, k, 0, 7}, {5, 8})[0] % 1200) / 100 - 6));
    mixtures.push_back(weights);
  }
  for (const auto& weights : mixtures) {
    double sum = 0;
    for (const double weight : weights) sum += weight;
    const MixtureOrder order(weights);
    auto cursors = cursors_of(weights.size());
    for (std::int64_t n = 1; n <= 2000; ++n) {
      order.next(cursors);
      std::int64_t all = 0;
      for (std::size_t i = 0; i < weights.size(); ++i) {
        all += cursors[i].taken;
        const double share = static_cast<double>(n) * weights[i] / sum;
        if (!(std::abs(static_cast<double>(cursors[i].taken) - share) < 1))
          FAIL("source " << i << " of " << weights.size() << " has " << cursors[i].taken << " of " << n
                         << ", its share is " << share);
      }
      if (all != n) FAIL("one sample a call");
    }
    for (std::size_t i = 0; i < weights.size(); ++i) CHECK(order.share(i) == Approx(weights[i] / sum).epsilon(1e-9));
  }
}

TEST_CASE("a mixture goes on from its counts as if it had not stopped, far along too") {
  const std::vector<double> weights = {3, 2, 0.5};
  const MixtureOrder order(weights);
  auto whole = cursors_of(3);
  for (int i = 0; i < 1234; ++i) order.next(whole);
  auto resumed = whole;
  const MixtureOrder again(weights);
  for (int i = 0; i < 500; ++i) CHECK(again.next(resumed) == order.next(whole));
  // Counts whose products with weights 64 bits do not hold: only what is behind matters.
  const MixtureOrder eighths(std::vector<double>{3, 4, 1});
  auto far = cursors_of(3), near = cursors_of(3);
  far[0].taken = (std::int64_t{1} << 41) * 3;
  far[1].taken = (std::int64_t{1} << 41) * 4;
  far[2].taken = (std::int64_t{1} << 41);
  for (int i = 0; i < 16; ++i) CHECK(eighths.next(far) == eighths.next(near));
}

TEST_CASE("a sample of a mixture is one of its source, documents and masks included") {
  const Numbered a(50, 0, 7, true), b(33, 1000, 0, false), c(48, 2000, 48, false);
  const std::vector<const TokenSource*> sources = {&a, &c};
  constexpr std::int64_t length = 8;
  const MixedTokens mixed(sources, length);
  CHECK(mixed.has_documents());
  CHECK(mixed.has_loss_mask());
  CHECK_FALSE(MixedTokens({&a, &b}, length).has_documents());
  for (std::size_t source = 0; source < sources.size(); ++source) {
    SequenceLoader alone(*sources[source], length, Packing::documents), together(mixed, length, Packing::documents);
    const std::int64_t samples = (sources[source]->size() - 1) / length;
    REQUIRE(samples > 3);
    for (std::int64_t sample = 0; sample < samples; ++sample) {
      HostBatch expected, found;
      const auto order = contiguous_order(0, length);
      const std::int64_t one[] = {sample}, other[] = {mixed.first_sample(source) + sample};
      CHECK(mixed.source_of(other[0]) == source);
      CHECK(alone.fill(one, order, expected) == together.fill(other, order, found));
      for (const BatchField& field : batch_fields) CHECK(expected.*field.values == found.*field.values);
    }
  }
}
