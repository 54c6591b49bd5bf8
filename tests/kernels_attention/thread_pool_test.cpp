#include "kernels/cpu/thread_pool.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <stdexcept>
#include <vector>

using longhaul::partition;
using longhaul::ThreadPool;

TEST_CASE("every task runs once, on a thread of the pool") {
  for (int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    REQUIRE(pool.threads() == threads);
    for (int tasks : {0, 1, 2, 3, 17, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(tasks));
      std::vector<std::atomic<int>> busy(static_cast<std::size_t>(threads));
      std::atomic<bool> shared_thread{false};
      pool.run(tasks, [&](std::int64_t task, int thread) {
        if (busy.at(static_cast<std::size_t>(thread)).fetch_add(1) != 0) shared_thread = true;
        runs[static_cast<std::size_t>(task)]++;
        busy[static_cast<std::size_t>(thread)]--;
      });
      for (const auto& count : runs) CHECK(count == 1);
      CHECK_FALSE(shared_thread);
    }
  }
}

TEST_CASE("what tasks wrote is visible to the caller, job after job") {
  ThreadPool pool(3);
  std::vector<std::int64_t> values(64);
  for (int job = 1; job <= 3000; ++job) {
    pool.run(64, [&](std::int64_t task, int) { values[static_cast<std::size_t>(task)] += task; });
    REQUIRE(values[63] == 63 * job);
    REQUIRE(values[1] == job);
  }
}

TEST_CASE("workers do take part") {
  ThreadPool pool(2);
  std::atomic<int> arrived{0};
  // Both tasks must be running at once for either to end.
  pool.run(2, [&](std::int64_t, int) {
    arrived++;
    arrived.notify_all();
    while (arrived.load() < 2) arrived.wait(1);
  });
  CHECK(arrived == 2);
}

TEST_CASE("an exception reaches the caller and the pool lives on") {
  for (int threads : {1, 3}) {
    ThreadPool pool(threads);
    for (int again = 0; again < 50; ++again) {
      CHECK_THROWS_AS(pool.run(100,
                               [&](std::int64_t task, int) {
                                 if (task == 7) throw std::runtime_error("seven");
                               }),
                      std::runtime_error);
      std::atomic<int> count{0};
      pool.run(100, [&](std::int64_t, int) { count++; });
      REQUIRE(count == 100);
    }
  }
}

TEST_CASE("a run inside a run is refused") {
  for (int threads : {1, 2}) {
    ThreadPool pool(threads);
    CHECK_THROWS_AS(pool.run(4, [&](std::int64_t, int) { pool.run(1, [](std::int64_t, int) {}); }), std::logic_error);
  }
}

TEST_CASE("ranges cover everything once, whatever the threads") {
  for (std::int64_t count : {0, 1, 5, 64, 1001})
    for (std::int64_t parts : {1, 2, 3, 7, 64}) {
      std::int64_t next = 0;
      for (std::int64_t part = 0; part < parts; ++part) {
        const auto range = partition(count, parts, part);
        CHECK(range.begin == next);
        CHECK(range.size() >= count / parts);
        CHECK(range.size() <= count / parts + 1);
        next = range.end;
      }
      CHECK(next == count);
      ThreadPool pool(3);
      std::vector<std::atomic<int>> by_grain(static_cast<std::size_t>(count)), by_part(static_cast<std::size_t>(count));
      longhaul::parallel_for(pool, count, parts, [&](std::int64_t begin, std::int64_t end) {
        for (auto i = begin; i < end; ++i) by_grain[static_cast<std::size_t>(i)]++;
      });
      longhaul::parallel_parts(pool, count, parts, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
        for (auto i = begin; i < end; ++i) by_part[static_cast<std::size_t>(i)]++;
      });
      for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) CHECK((by_grain[i] == 1 && by_part[i] == 1));
    }
}
