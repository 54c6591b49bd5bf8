// The transport of a link of any speed: results, traffic and groups are those of the one below, and a collective is
// over when its time has passed after the last rank has come to it.
#include "comm/delay/delay_communicator.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <thread>

#include "base/error.h"
#include "collective_checks.h"
#include "comm/launch.h"

using namespace longhaul;

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::shared_ptr<DelayedWire> wire(const LinkDelay& delay) {
  return std::make_shared<DelayedWire>(delay);
}

}  // namespace

TEST_CASE("a delayed link computes what the link below does", "[threads]") {
  for (const int ranks : {1, 2, 4})
    CHECK(run_threads(ranks, [](Communicator& world) {
            std::vector<int> all;
            for (int rank = 0; rank < world.size(); ++rank) all.push_back(rank);
            const auto slow = delayed(world.group(all), wire({1e-6, 1e12}));
            check_collectives(*slow, false);
            check_traffic(*slow);
            if (world.size() == 4) check_mesh_groups(*slow);
            return 0;
          }) == 0);
}

TEST_CASE("a delayed collective takes its latency and its bytes after the last rank has come", "[threads]") {
  // 0.05 s for one doubling; 1 MB to the other rank at 10 MB/s: 0.1 s more.
  std::array<std::atomic<double>, 2> come{};  // when each rank was there
  run_threads(2, [&](Communicator& world) {
    const auto slow = delayed(world.group({0, 1}), wire({0.05, 1e7}));
    std::vector<char> send(1'000'000, 'x'), receive(2'000'000);
    if (world.rank() == 1) std::this_thread::sleep_for(std::chrono::duration<double>(0.1));
    come[static_cast<std::size_t>(world.rank())] = now();
    slow->all_gather(send.data(), receive.data(), send.size());
    const double took = now() - std::max(come[0].load(), come[1].load());
    if (took < 0.15 - 1e-3) fail("rank {}: {} s, before its time", world.rank(), took);
    if (receive.front() != 'x' || receive.back() != 'x') fail("the wrong bytes");
    if (slow->traffic()[Collective::all_gather].bytes_sent != 1'000'000) fail("the wrong traffic");
    return 0;
  });
}

TEST_CASE("groups of a rank share its wire", "[threads]") {
  // 0.1 s each, begun together by two threads.
  run_threads(2, [&](Communicator& world) {
    const auto shared = wire({0, 1e7});
    const std::array groups = {delayed(world.group({0, 1}), shared), delayed(world.group({0, 1}), shared)};
    std::array<double, 2> over{};
    const double begin = now();
    const auto send = [&](std::size_t i) {
      std::vector<char> mine(1'000'000), all(2'000'000);
      groups[i]->all_gather(mine.data(), all.data(), mine.size());
      over[i] = now() - begin;
    };
    std::thread other(send, 1);
    send(0);
    other.join();
    if (std::max(over[0], over[1]) < 0.2 - 1e-3) fail("rank {}: both at once on one wire", world.rank());
    return 0;
  });
}

TEST_CASE("LONGHAUL_DELAY is read or refused") {
  CHECK(parse_link_delay("20e-6:1e9").latency == 20e-6);
  CHECK(parse_link_delay("20e-6:1e9").bandwidth == 1e9);
  CHECK(parse_link_delay("0:1").latency == 0);
  for (const char* wrong : {"1", "1:", ":1", "-1:1", "11:1", "0:0", "0:1x", "0:1:2", "nan:1"})
    CHECK_THROWS_WITH(parse_link_delay(wrong), Catch::Contains("LONGHAUL_DELAY is '" + std::string(wrong) + "'") &&
                                                   Catch::Contains("LATENCY:BANDWIDTH"));
}
