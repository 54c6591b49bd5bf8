// The balanced order: every token once, in a rank's buffer by its place, and attention shared out at least as evenly as
// in the fixed orders, whatever the documents.
#include "plan/token_placement.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <numeric>
#include <random>

#include "plan/mesh.h"

using namespace longhaul;

namespace {

using Ints = std::vector<std::int32_t>;

ResolvedParallelism split(std::int64_t ring, std::int64_t gather, std::int64_t ulysses, TokenOrder order,
                          std::int64_t data = 1) {
  ResolvedParallelism parallel;
  parallel.data = data;
  parallel.ring = ring;
  parallel.gather = gather;
  parallel.ulysses = ulysses;
  parallel.token_order = order;
  return parallel;
}

struct Placed {
  TokenPlacement placement;
  std::int64_t padded;
};
Placed place(const ResolvedParallelism& parallel, std::int64_t length, const std::vector<AttentionLayer>& layers) {
  Placement placement;
  const Mesh mesh = place_ranks(parallel, placement);
  const std::int64_t padded = padded_sequence(parallel, length);
  return {TokenPlacement(mesh, placement, padded, layers), padded};
}

// Documents of uneven lengths: the first index of each.
Ints random_documents(std::mt19937& random, std::int32_t length) {
  Ints starts;
  for (std::uint32_t start = 0; start < static_cast<std::uint32_t>(length);) {
    starts.push_back(static_cast<std::int32_t>(start));
    const auto most = static_cast<std::uint32_t>(random() % 4 == 0 ? length : std::max(2, length / 16));
    start += 1 + static_cast<std::uint32_t>(random()) % most;
  }
  return starts;
}

// What each holder's tokens see of each holder's, counted pair by pair.
std::vector<double> counted(const Ints& whole, int holders, const Ints& starts, std::int32_t length,
                            const std::vector<AttentionLayer>& layers) {
  const auto ranks = static_cast<std::size_t>(holders);
  std::vector<double> between(ranks * ranks);
  std::vector<std::size_t> holder(whole.size());
  for (std::size_t slot = 0; slot < whole.size(); ++slot)
    holder[static_cast<std::size_t>(whole[slot])] = slot / (whole.size() / ranks);
  for (std::int32_t query = 0; query < static_cast<std::int32_t>(whole.size()); ++query) {
    const std::int32_t start =
        query >= length ? query : *std::prev(std::upper_bound(starts.begin(), starts.end(), query));
    for (const auto& layer : layers)
      for (std::int32_t key = start; key <= query; ++key)
        if (layer.window == 0 || key > query - layer.window)
          between[holder[static_cast<std::size_t>(query)] * ranks + holder[static_cast<std::size_t>(key)]] +=
              static_cast<double>(layer.heads * layer.head_dim);
  }
  return between;
}

}  // namespace

TEST_CASE("a balanced order is a permutation that all ranks agree on, sorted in each rank's buffer") {
  std::mt19937 random(3);
  const std::vector<AttentionLayer> layers = {{4, 0, 8}};
  for (const auto& [ring, gather, ulysses] :
       {std::tuple{2, 1, 1}, {3, 1, 1}, {4, 1, 1}, {1, 2, 1}, {1, 3, 1}, {2, 1, 2}, {1, 2, 3}, {5, 1, 4}})
    for (int i = 0; i < 5; ++i) {
      const auto parallel = split(ring, gather, ulysses, TokenOrder::balanced, 2);
      const auto length = static_cast<std::int32_t>(20 + random() % 300);
      const Ints starts = random_documents(random, length);
      auto [placement, padded] = place(parallel, length, layers);
      CHECK(padded >= length);
      CHECK(padded < length + parallel.outer() * std::lcm(permuted_chunks, std::int64_t{ulysses}));
      const auto whole = placement.whole_order(starts, length);
      const Ints all(whole.begin(), whole.end());
      Ints joined;
      for (int rank = 0; rank < static_cast<int>(parallel.sequence()); ++rank) {
        auto own = place(parallel, length, layers).placement;  // as on that rank: nothing but the documents is shared
        const auto mine = own.order(rank, starts, length);
        joined.insert(joined.end(), mine.begin(), mine.end());
        auto other_group = place(parallel, length, layers).placement;
        const auto theirs = other_group.order(rank + static_cast<int>(parallel.sequence()), starts, length);
        CHECK(std::equal(mine.begin(), mine.end(), theirs.begin(), theirs.end()));
      }
      CHECK(joined == all);
      const std::size_t held = all.size() / static_cast<std::size_t>(parallel.outer());
      for (std::size_t begin = 0; begin < all.size(); begin += held)
        CHECK(std::is_sorted(all.begin() + static_cast<std::ptrdiff_t>(begin),
                             all.begin() + static_cast<std::ptrdiff_t>(begin + held)));
      std::sort(joined.begin(), joined.end());
      for (std::size_t index = 0; index < joined.size(); ++index) REQUIRE(joined[index] == static_cast<int>(index));
      CHECK(static_cast<std::int64_t>(joined.size()) == padded);
    }
}

TEST_CASE("the shares of every order are its visible pairs, and no order takes less time than the balanced one") {
  std::mt19937 random(5);
  const std::vector<std::vector<AttentionLayer>> models = {
      {{1, 0, 1}}, {{4, 7, 8}}, {{2, 0, 8}, {4, 11, 16}, {2, 0, 8}}};
  int better = 0, cases = 0;
  for (const auto& layers : models)
    for (const int ranks : {2, 3, 4, 8})
      for (const bool ring : {false, true})
        for (int i = 0; i < 8; ++i) {
          const auto slots = static_cast<std::int32_t>(ranks * 8 * (2 + random() % 4));  // no order pads
          const Ints starts = i == 0 ? Ints{0} : random_documents(random, slots);
          std::vector<double> paths;
          for (const auto order : {TokenOrder::balanced, TokenOrder::zigzag, TokenOrder::contiguous}) {
            auto [placement, padded] = place(split(ring ? ranks : 1, ring ? 1 : ranks, 1, order), slots, layers);
            REQUIRE(padded == slots);
            const auto whole = placement.whole_order(starts, slots);
            const Ints order_now(whole.begin(), whole.end());
            const AttentionShares shares = placement.shares(starts, slots);
            CHECK(shares.between == counted(order_now, ranks, starts, slots, layers));
            CHECK(shares.steps == ring);
            paths.push_back(shares.path());
            if (!ring) CHECK(shares.path() == shares.busiest());
          }
          CHECK(paths[0] <= std::min(paths[1], paths[2]));
          better += paths[0] < std::min(paths[1], paths[2]);
          ++cases;
        }
  CHECK(better > cases / 2);
}

TEST_CASE("uneven documents: the balanced order is nearly even where the fixed orders are not") {
  // A long document, then shorter and shorter ones: 8192 tokens over 4 ranks.
  const Ints starts = {0, 4500, 6000, 6700, 7000, 7300, 7400, 7600, 7900, 8000};
  for (const bool ring : {false, true}) {
    const auto shares = [&](TokenOrder order) {
      auto placement = place(split(ring ? 4 : 1, ring ? 1 : 4, 1, order), 8192, {{8, 0, 64}}).placement;
      return placement.shares(starts, 8192);
    };
    const auto balanced = shares(TokenOrder::balanced), zigzag = shares(TokenOrder::zigzag),
               contiguous = shares(TokenOrder::contiguous);
    const double mean = balanced.mean();
    INFO(ring << ": busiest / mean balanced " << balanced.busiest() / mean << ", zigzag " << zigzag.busiest() / mean
              << ", contiguous " << contiguous.busiest() / mean << "; path " << balanced.path() / mean << ", "
              << zigzag.path() / mean << ", " << contiguous.path() / mean);
    CHECK(balanced.busiest() < 1.02 * mean);
    CHECK(zigzag.busiest() > 1.2 * mean);
    CHECK(contiguous.busiest() > 1.2 * mean);
    CHECK(balanced.path() < 0.9 * std::min(zigzag.path(), contiguous.path()));
  }
}

TEST_CASE("padding counts as tokens that see themselves, and one holder keeps the order of the sequence") {
  const Ints starts = {0, 9};
  auto [placement, padded] = place(split(2, 1, 1, TokenOrder::balanced), 21, {{1, 0, 1}});
  REQUIRE(padded == 32);
  CHECK(2 * placement.shares(starts, 21).mean() == 9 * 10 / 2 + 12 * 13 / 2 + 11);
  auto alone = place(split(1, 1, 4, TokenOrder::balanced), 24, {{4, 0, 1}}).placement;
  const auto whole = alone.whole_order(starts, 24);
  for (std::size_t i = 0; i < whole.size(); ++i) CHECK(whole[i] == static_cast<std::int32_t>(i));
  CHECK(alone.holders() == 1);
}

TEST_CASE("layers with a window that are split another way do not count among the holders") {
  const Ints starts = {0, 9};
  ResolvedParallelism parallel = split(4, 1, 1, TokenOrder::contiguous);
  const AttentionLayer whole{2, 0, 8}, window{4, 5, 8};
  const auto between = [&](const std::vector<AttentionLayer>& layers) {
    return place(parallel, 32, layers).placement.shares(starts, 32).between;
  };
  CHECK(between({whole, window}) != between({whole}));
  parallel.window_layers = SequenceSplit{4, 1, 1};
  CHECK(between({whole, window}) == between({whole}));
  CHECK(between({window}) != std::vector<double>(16));  // never nothing at all
}
