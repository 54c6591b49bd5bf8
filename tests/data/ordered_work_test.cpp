// Work in order on several threads: results come as pieces went in, what throws comes in its place, and no more than so
// many pieces are held.
#include "data/ordered_work.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <stdexcept>
#include <string>

using longhaul::OrderedWork;

TEST_CASE("results come in the order of their pieces, each worked on once by a thread of its own number",
          "[libraries]") {
  for (const int threads : {1, 2, 5}) {
    int given = 0;
    std::vector<std::atomic<int>> busy(static_cast<std::size_t>(threads));
    std::atomic<bool> shared{false};
    OrderedWork<int, int> work(
        threads, 4, [&]() -> std::optional<int> { return given < 200 ? std::optional(given++) : std::nullopt; },
        [&](int& piece, int who) {
          if (busy[static_cast<std::size_t>(who)].fetch_add(1) != 0) shared = true;
          if (piece % 7 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));  // the first may end last
          busy[static_cast<std::size_t>(who)].fetch_sub(1);
          return piece * piece;
        });
    int expected = 0;
    while (const auto done = work.next()) {
      CHECK(done->first == expected);
      CHECK(done->second == expected * expected);
      ++expected;
    }
    CHECK(expected == 200);
    CHECK(!shared);
    CHECK(!work.next());
  }
}

TEST_CASE("what the source or the work throws comes out behind the pieces before it", "[libraries]") {
  for (const bool source : {false, true})
    for (const int threads : {1, 3}) {
      int given = 0;
      OrderedWork<int, int> work(
          threads, 6,
          [&]() -> std::optional<int> {
            if (source && given == 10) throw std::runtime_error("piece 10");
            return given++;
          },
          [&](int& piece, int) {
            if (piece >= 10) throw std::runtime_error("piece " + std::to_string(piece));
            return piece;
          });
      for (int i = 0; i < 10; ++i) {
        const auto done = work.next();
        REQUIRE(done);
        CHECK(done->second == i);
      }
      CHECK_THROWS_WITH(work.next(), "piece 10");
    }
}

TEST_CASE("no more pieces are held than asked for, and leaving early ends all threads", "[libraries]") {
  std::atomic<int> given{0};
  {
    OrderedWork<int, int> work(
        3, 5, [&]() -> std::optional<int> { return given++; }, [](int& piece, int) { return piece; });
    REQUIRE(work.next());
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    CHECK(given <= 1 + 5 + 1);  // what next() gave, what is held, and the one being read
  }
}
