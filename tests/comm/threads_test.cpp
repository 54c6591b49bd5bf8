#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <limits>
#include <mutex>
#include <string>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "collective_checks.h"
#include "comm/exchange.h"
#include "comm/launch.h"

using namespace longhaul;
using Catch::Matchers::Contains;
using Catch::Matchers::Equals;
using Catch::Matchers::StartsWith;

namespace {

/// Runs the body on every rank and returns what run_threads throws; "" for nothing.
std::string failure_of(int ranks, const std::function<void(Communicator&)>& body) {
  try {
    run_threads(ranks, [&](Communicator& communicator) {
      body(communicator);
      return 0;
    });
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

/// What the ranks threw inside the body.
class Caught {
 public:
  void add(int rank, const std::string& text) {
    const std::lock_guard lock(mutex_);
    texts_[static_cast<std::size_t>(rank)] = text;
  }
  std::string of(int rank) { return texts_[static_cast<std::size_t>(rank)]; }

 private:
  std::mutex mutex_;
  std::string texts_[8];
};

}  // namespace

TEST_CASE("one rank: every collective is a copy") {
  REQUIRE_NOTHROW(run_threads(1, [](Communicator& communicator) {
    check_collectives(communicator, true);
    check_traffic(communicator);
    check_exchange(communicator);
    return 0;
  }));
  CHECK(Communicator::reduction_scratch_bytes(1, 1000, DType::float32) == 0);
}

TEST_CASE("threads: every collective equals the oracle", "[threads]") {
  for (int ranks = 2; ranks <= 5; ++ranks) {
    CAPTURE(ranks);
    REQUIRE_NOTHROW(run_threads(ranks, [&](Communicator& communicator) {
      if (communicator.size() != ranks || communicator.transport() != "threads" || !communicator.one_process())
        fail("wrong world");
      check_collectives(communicator, ranks == 3);
      check_traffic(communicator);
      check_exchange(communicator);
      return 0;
    }));
  }
}

TEST_CASE("threads: groups of a mesh", "[threads]") {
  REQUIRE_NOTHROW(run_threads(4, [](Communicator& communicator) {
    check_mesh_groups(communicator);
    return 0;
  }));
}

TEST_CASE("threads: reductions give the same bits every time", "[threads]") {
  std::vector<std::uint8_t> bits[2];
  for (auto& result : bits)
    run_threads(4, [&](Communicator& communicator) {
      const auto mine = reduction_bits(communicator);
      if (communicator.rank() == 0) result = mine;
      return 0;
    });
  CHECK(bits[0] == bits[1]);
  CHECK(bits[0].size() > 1000000);
}

TEST_CASE("threads: a barrier holds the early until the last comes", "[threads]") {
  std::atomic<int> here{0};
  REQUIRE_NOTHROW(run_threads(4, [&](Communicator& communicator) {
    for (int round = 1; round <= 50; ++round) {
      ++here;
      communicator.barrier();
      if (here.load() < 4 * round) fail("round {}: only {} came", round, here.load());
    }
    return 0;
  }));
}

TEST_CASE("reduction scratch: 64-byte multiples, bounded, one slot for each other rank") {
  CHECK(Communicator::reduction_scratch_bytes(2, 2, DType::float64) == 64);
  CHECK(Communicator::reduction_scratch_bytes(4, 4 * 16, DType::float32) == 3 * 64);
  CHECK(Communicator::reduction_scratch_bytes(4, 4 * 16 + 1, DType::float32) == 3 * 128);
  CHECK(Communicator::reduction_scratch_bytes(4, std::size_t{1} << 40, DType::bfloat16) == 3u << 20);
  CHECK(Communicator::reduction_scratch_bytes(4, 0, DType::float32) == 0);
}

TEST_CASE("run_threads returns the largest result and refuses no ranks") {
  CHECK(run_threads(1, [](Communicator&) { return 7; }) == 7);
  CHECK_THROWS_WITH(run_threads(0, [](Communicator&) { return 0; }), Contains("--ranks"));
  CHECK_THROWS_WITH(run_threads(1, [](Communicator&) -> int { fail("alone"); }), Equals("alone"));
}

TEST_CASE("threads: run_threads returns the largest result and sets log ranks", "[threads]") {
  std::atomic<int> informers{0};
  CHECK(run_threads(4, [&](Communicator& communicator) {
          if (logs_info()) ++informers;
          return communicator.rank() == 2 ? 85 : communicator.rank();
        }) == 85);
  CHECK(informers == 1);
}

TEST_CASE("threads: a failure wakes ranks that wait in any call", "[threads]") {
  using Call = std::function<void(Communicator&)>;
  static double data[64];
  const std::pair<const char*, Call> calls[] = {
      {"barrier", [](Communicator& c) { c.barrier(); }},
      {"broadcast",
       [](Communicator& c) {
         double own = 0;
         c.broadcast(&own, 8, 0);
       }},
      {"all_reduce",
       [](Communicator& c) {
         double in = 0, out = 0;
         c.all_reduce(&in, &out, 1, DType::float64, data);
       }},
      {"group and its barrier",
       [](Communicator& c) {
         // Rank 2 never joins.
         c.group({0, 1, 2, 3})->barrier();
       }},
  };
  for (const auto& [name, call] : calls) {
    CAPTURE(name);
    Caught caught;
    const auto message = failure_of(4, [&, &call = call](Communicator& communicator) {
      const int rank = communicator.rank();
      if (rank == 2) {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        fail("disk full");
      }
      try {
        call(communicator);
      } catch (const PeerFailure& failure) {
        caught.add(rank, failure.what());
        // Later calls too, of this and of new groups.
        try {
          communicator.barrier();
        } catch (const PeerFailure&) {
          throw;
        }
        caught.add(rank, "a later call passed");
      }
    });
    CHECK(message == "rank 2: disk full");
    for (const int rank : {0, 1, 3}) CHECK(caught.of(rank) == "rank 2: disk full");
  }
}

TEST_CASE("threads: a failure in one group wakes a wait in another", "[threads]") {
  const auto message = failure_of(4, [](Communicator& communicator) {
    const int row = communicator.rank() / 2;
    const auto rows = communicator.group({2 * row, 2 * row + 1});
    if (communicator.rank() == 0) throw std::runtime_error("out of memory");
    rows->barrier();  // rank 1 waits for rank 0 in its row
    if (row == 1) communicator.barrier();
  });
  CHECK(message == "rank 0: out of memory");
}

TEST_CASE("threads: the first failure by time is reported, not those it causes", "[threads]") {
  const auto message = failure_of(3, [](Communicator& communicator) {
    if (communicator.rank() == 1) fail("first");
    try {
      communicator.barrier();
    } catch (const PeerFailure&) {
      fail("follows from the first");
    }
  });
  CHECK(message == "rank 1: first");
}

TEST_CASE("threads: a rank that stops first because of a peer does not hide the peer's failure", "[threads]") {
  std::atomic<bool> stopped{false};
  CHECK_THROWS_AS(run_threads(2,
                              [&](Communicator& communicator) -> int {
                                if (communicator.rank() == 0) {
                                  stopped = true;
                                  throw PeerFailure("rank 1: broken");
                                }
                                while (!stopped) std::this_thread::yield();
                                std::this_thread::sleep_for(std::chrono::milliseconds(20));
                                throw std::logic_error("broken");
                              }),
                  std::logic_error);
}

TEST_CASE("threads: errors keep their kind", "[threads]") {
  const auto run = [](auto thrown) {
    run_threads(2, [&](Communicator& communicator) -> int {
      if (communicator.rank() == 1) throw thrown;
      communicator.barrier();
      return 0;
    });
  };
  CHECK_THROWS_AS(run(Error("x")), Error);
  CHECK_THROWS_AS(run(std::logic_error("x")), std::logic_error);
  CHECK_THROWS_AS(run(std::runtime_error("x")), std::runtime_error);
  CHECK_THROWS_AS(run(42), int);
}

TEST_CASE("threads: abort poisons the world, also from another thread", "[threads]") {
  Caught caught;
  const auto message = failure_of(3, [&](Communicator& communicator) {
    const auto group = communicator.group({0, 1, 2});
    group->barrier();  // making a group fails too, after the abort
    if (communicator.rank() == 1) {
      std::thread([&] { group->abort("hang: step 7"); }).join();
      return;
    }
    try {
      group->barrier();
    } catch (const PeerFailure& failure) {
      caught.add(communicator.rank(), failure.what());
      throw;
    }
  });
  CHECK(message == "rank 1: hang: step 7");
  CHECK(caught.of(0) == "hang: step 7");
  CHECK(caught.of(2) == "hang: step 7");
}

TEST_CASE("threads: who only looks hears of a failure", "[threads]") {
  Caught caught;
  failure_of(2, [&](Communicator& communicator) {
    communicator.look();
    communicator.barrier();
    if (communicator.rank() == 1) fail("disk full");
    try {
      for (;;) communicator.look();
    } catch (const PeerFailure& failure) {
      caught.add(0, failure.what());
      throw;
    }
  });
  CHECK(caught.of(0) == "rank 1: disk full");
}

TEST_CASE("threads: buffers stay valid for readers when a failure strikes mid-call", "[threads]") {
  // Sanitizers see a read of freed memory if a rank leaves a call while another still copies from it.
  for (int round = 0; round < 20; ++round) {
    const auto message = failure_of(3, [&](Communicator& communicator) {
      const auto pair = communicator.rank() < 2 ? communicator.group({0, 1}) : nullptr;
      communicator.barrier();
      if (communicator.rank() == 2) {
        std::this_thread::sleep_for(std::chrono::microseconds(50 * round));
        fail("now");
      }
      for (;;) {
        std::vector<float> send(20000, 1.0f), receive(40000);
        pair->all_gather(send.data(), receive.data(), send.size() * sizeof(float));
        if (receive[0] != 1.0f || receive[39999] != 1.0f) fail("wrong data");
      }
    });
    CHECK(message == "rank 2: now");
  }
}

TEST_CASE("threads: agree throws on all ranks with the lowest failing rank's message", "[threads]") {
  REQUIRE_NOTHROW(run_threads(3, [](Communicator& communicator) {
    agree(communicator, "");
    return 0;
  }));
  Caught caught;
  const auto message = failure_of(4, [&](Communicator& communicator) {
    const int rank = communicator.rank();
    try {
      agree(communicator, rank == 1   ? "weights.safetensors: truncated"
                          : rank == 3 ? "a much longer message of another rank"
                                      : "");
    } catch (const Error& error) {
      caught.add(rank, error.what());
      throw;
    }
  });
  CHECK(message == "rank 1: weights.safetensors: truncated");
  for (int rank = 0; rank < 4; ++rank) CHECK(caught.of(rank) == "rank 1: weights.safetensors: truncated");
}

TEST_CASE("threads: after agree all ranks can go on", "[threads]") {
  REQUIRE_NOTHROW(run_threads(3, [](Communicator& communicator) {
    bool thrown = false;
    try {
      agree(communicator, communicator.rank() == 2 ? "no" : "");
    } catch (const Error&) {
      thrown = true;
    }
    if (!thrown) fail("agree passed");
    check_collectives(communicator, false);
    return 0;
  }));
}

TEST_CASE("threads: different calls are found out", "[threads]") {
  double in = 0, out[4];
  const auto run = [&](const std::function<void(Communicator&)>& odd) {
    return failure_of(2, [&](Communicator& communicator) {
      double mine[4] = {};
      if (communicator.rank() == 0)
        communicator.all_gather(&in, mine, 8);
      else
        odd(communicator);
    });
  };
  CHECK_THAT(run([](Communicator& c) { c.barrier(); }), Contains("different calls"));
  CHECK_THAT(run([&](Communicator& c) { c.all_gather(&in, out, 16); }), Contains("different calls"));
  CHECK_THAT(run([&](Communicator& c) { c.all_to_all(out, out + 2, 8); }), Contains("different calls"));

  const auto lengths = failure_of(2, [](Communicator& communicator) {
    double mine = 1, theirs = 0;
    const int other = 1 - communicator.rank();
    communicator.send_receive(&mine, 8, other, &theirs, communicator.rank() == 0 ? 4 : 8, other);
  });
  CHECK_THAT(lengths, StartsWith("rank 0: ") && Contains("receives 4 bytes"));
}

TEST_CASE("wrong arguments are defects") {
  run_threads(1, [](Communicator& communicator) {
    int value[2] = {1, 0};
    CHECK_THROWS_AS(communicator.all_reduce(value, value, 1, DType::int32, nullptr), std::logic_error);
    CHECK_THROWS_AS(communicator.reduce_scatter(value, value, 1, DType::int32, nullptr), std::logic_error);
    CHECK_THROWS_AS(communicator.broadcast(value, 4, 1), std::logic_error);
    CHECK_THROWS_AS(communicator.send_receive(value, 4, 0, value + 1, 4, 1), std::logic_error);
    CHECK_THROWS_AS(communicator.send_receive(value, 4, 0, value + 1, 0, 0), std::logic_error);
    CHECK_THROWS_AS(communicator.group({}), std::logic_error);
    CHECK_THROWS_AS(communicator.group({1}), std::logic_error);
    CHECK_THROWS_AS(communicator.group({0, 0}), std::logic_error);
    for (const auto& row : communicator.traffic().rows) CHECK(row.calls == 0);
    return 0;
  });
}
