// Merging against a plain loop that looks for the lowest pair again and again.
#include "tokenizer/bpe.h"

#include <catch2/catch.hpp>
#include <map>

namespace longhaul {

TEST_CASE("short and long words merge as the plain loop says") {
  std::uint64_t state = 5;
  const auto random = [&](std::uint64_t below) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::int32_t>((state >> 33) % below);
  };
  for (int round = 0; round < 60; ++round) {
    // Random merges over few symbols; several pairs may become the same symbol, a pair may come twice.
    std::map<std::pair<std::int32_t, std::int32_t>, MergeTable::Merge> merges;
    MergeTable table(60);
    std::int32_t symbols = 4;
    for (std::uint32_t rank = 0; rank < 50; ++rank) {
      const std::pair pair(random(static_cast<std::uint64_t>(symbols)), random(static_cast<std::uint64_t>(symbols)));
      const MergeTable::Merge merge{rank, static_cast<std::uint32_t>(symbols++)};
      merges[pair] = merge;
      table.add(pair.first, pair.second, merge);
    }
    CHECK(table.size() == merges.size());
    for (const int length : {0, 1, 2, 3, 10, 47, 48, 49, 200, 1000}) {
      std::vector<std::int32_t> word;
      for (int i = 0; i < length; ++i) word.push_back(random(4));
      auto expected = word;
      for (;;) {
        std::uint32_t lowest = MergeTable::none;
        std::size_t place = 0;
        for (std::size_t i = 0; i + 1 < expected.size(); ++i) {
          const auto found = merges.find({expected[i], expected[i + 1]});
          if (found == merges.end() || found->second.rank >= lowest) continue;
          lowest = found->second.rank;
          place = i;
        }
        if (lowest == MergeTable::none) break;
        expected[place] = static_cast<std::int32_t>(merges[{expected[place], expected[place + 1]}].id);
        expected.erase(expected.begin() + static_cast<std::ptrdiff_t>(place) + 1);
      }
      table.apply(word);
      CHECK(word == expected);
    }
  }
}

}  // namespace longhaul
