// Ranks that find one another by sockets: here mostly threads, each with connections of its own, so that one process
// sees all sides; and processes, where processes are what is tested.
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <cstdio>
#include <functional>
#include <mutex>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>

#include "base/error.h"
#include "base/sanitizers.h"
#include "collective_checks.h"
#include "comm/exchange.h"
#include "comm/launch.h"
#include "comm/sockets/rendezvous.h"
#include "comm/sockets/sockets_communicator.h"
#include "scoped_environment.h"

using namespace longhaul;
using Catch::Matchers::Contains;
using sockets::Mesh;
using sockets::Place;
using std::chrono::seconds;

namespace {

std::vector<int> free_ports(int count) {
  std::vector<int> ports;
  std::vector<sockets::Socket> held;
  for (int i = 0; i < count; ++i) {
    held.push_back(std::move(*sockets::listen_on(0)));
    ports.push_back(sockets::port_of(held.back()));
  }
  return ports;
}

Place place_of(int rank, int size, const std::vector<int>& ports, const std::string& job = "a") {
  return {rank, size, "127.0.0.1", ports, sockets::token_of(job), "a test"};
}

/// What each rank ended with: empty, or what it threw.
std::vector<std::string> each(int ranks, const std::function<void(int)>& body) {
  std::vector<std::string> endings(static_cast<std::size_t>(ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      std::string& ending = endings[static_cast<std::size_t>(rank)];
      try {
        body(rank);
      } catch (const PeerFailure& failure) {
        ending = std::string("peer: ") + failure.what();
      } catch (const std::exception& error) {
        ending = error.what();
      }
    });
  for (auto& thread : threads) thread.join();
  return endings;
}

/// Runs the body on ranks that are connected; a rank that throws tells the others.
std::vector<std::string> on_ranks(int ranks, const std::function<void(Communicator&)>& body) {
  const auto ports = free_ports(1);
  return each(ranks, [&](int rank) {
    const auto mesh = std::make_shared<Mesh>(rank, sockets::connect_all(place_of(rank, ranks, ports), seconds(60)));
    std::vector<int> all(static_cast<std::size_t>(ranks));
    std::iota(all.begin(), all.end(), 0);
    SocketsCommunicator world(mesh, all);
    try {
      body(world);
    } catch (const std::exception& error) {
      world.abort(error.what());
      throw;
    }
  });
}

}  // namespace

TEST_CASE("sockets: every collective equals the oracle, and reductions have the bits of threads", "[threads]") {
  for (int ranks = 1; ranks <= 4; ++ranks) {
    std::vector<std::vector<std::uint8_t>> bits(static_cast<std::size_t>(ranks)), expected(bits);
    run_threads(ranks, [&](Communicator& thread) {
      expected[static_cast<std::size_t>(thread.rank())] = reduction_bits(thread);
      return 0;
    });
    const auto endings = on_ranks(ranks, [&](Communicator& world) {
      if (world.transport() != "sockets" || world.size() != ranks) fail("another transport");
      check_collectives(world, ranks == 3);
      if (ranks == 4) check_mesh_groups(world);
      check_exchange(world);
      bits[static_cast<std::size_t>(world.rank())] = reduction_bits(world);
    });
    CHECK(endings == std::vector<std::string>(static_cast<std::size_t>(ranks)));
    CHECK(bits == expected);
    CHECK(bits[0].size() >= 1000000);
  }
}

TEST_CASE("sockets: a rank that fails tells the others why, also those that wait for somebody else", "[threads]") {
  const auto endings = on_ranks(4, [](Communicator& world) {
    const auto pair = world.group(world.rank() < 2 ? std::vector{0, 1} : std::vector{2, 3});
    pair->barrier();
    if (world.rank() == 3) fail("disk full");
    std::vector<float> data(1 << 20);
    std::vector<std::uint8_t> scratch(Communicator::reduction_scratch_bytes(4, data.size(), DType::float32));
    for (;;) world.all_reduce(data.data(), data.data(), data.size(), DType::float32, scratch.data());
  });
  CHECK(endings[3] == "disk full");
  for (int rank = 0; rank < 3; ++rank) CHECK(endings[static_cast<std::size_t>(rank)] == "peer: rank 3: disk full");
}

TEST_CASE("sockets: abort from another thread wakes a rank that waits", "[threads]") {
  const auto endings = on_ranks(2, [](Communicator& world) {
    std::thread other;
    if (world.rank() == 1)
      other = std::thread([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        world.abort("the watchdog's patience is over");
      });
    struct Join {
      std::thread& thread;
      ~Join() {
        if (thread.joinable()) thread.join();
      }
    } join{other};
    if (world.rank() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(200));
    if (world.rank() == 1) world.barrier();
    for (;;) world.barrier();
  });
  for (const auto& ending : endings) CHECK(ending == "peer: rank 1: the watchdog's patience is over");
}

TEST_CASE("sockets: a rank that is gone without a word is named by those that wait", "[threads]") {
  const auto ports = free_ports(1);
  const auto endings = each(3, [&](int rank) {
    auto peers = sockets::connect_all(place_of(rank, 3, ports), seconds(60));
    if (rank == 2) return;  // its connections close as those of a killed process do
    SocketsCommunicator world(std::make_shared<Mesh>(rank, std::move(peers)), {0, 1, 2});
    const auto pair = world.group({0, 1});
    try {
      for (int i = 0; i < 100; ++i) pair->barrier();  // which rank 2 is no part of
      world.barrier();
    } catch (const std::exception& error) {
      world.abort(error.what());
      throw;
    }
  });
  CHECK_THAT(endings[0] + endings[1], Contains("rank 2 (") && Contains("is gone, without a word, while rank"));
}

TEST_CASE("sockets: who only looks hears of a failure and of a rank that is gone, and takes no message", "[threads]") {
  const auto look_until_it_throws = [](Communicator& world) {
    for (int turn = 0; turn < 10000; ++turn, std::this_thread::sleep_for(std::chrono::milliseconds(1))) world.look();
  };
  const auto failed = on_ranks(2, [&](Communicator& world) {
    int value = 41 + world.rank();
    if (world.rank() == 1) {
      world.send_receive(&value, sizeof value, 0, &value, sizeof value, 0);
      fail("disk full");
    }
    for (int turn = 0; turn < 50; ++turn, std::this_thread::sleep_for(std::chrono::milliseconds(1)))
      world.look();  // the other is ahead: that is no failure
    world.send_receive(&value, sizeof value, 1, &value, sizeof value, 1);
    if (value != 42) fail("a look took a message");
    look_until_it_throws(world);
  });
  CHECK(failed[0] == "peer: rank 1: disk full");
  const auto ports = free_ports(1);
  const auto gone = each(2, [&](int rank) {
    auto peers = sockets::connect_all(place_of(rank, 2, ports), seconds(60));
    if (rank == 1) return;
    SocketsCommunicator world(std::make_shared<Mesh>(rank, std::move(peers)), {0, 1});
    look_until_it_throws(world);
  });
  CHECK_THAT(gone[0], Contains("rank 1 (") && Contains("is gone, without a word"));
}

TEST_CASE("sockets: different collectives, and a rank that has ended, are said", "[threads]") {
  auto endings = on_ranks(2, [](Communicator& world) {
    std::vector<char> data(64);
    if (world.rank() == 0)
      world.broadcast(data.data(), 8, 0);
    else
      world.broadcast(data.data(), 9, 0);
    world.barrier();
  });
  CHECK_THAT(endings[1], Contains("waits for 9 bytes") && Contains("gets 8") && Contains("different collectives"));
  endings = on_ranks(2, [](Communicator& world) {
    if (world.rank() == 1) world.barrier();
  });
  CHECK(endings[0] == "");
  CHECK_THAT(endings[1], Contains("has ended its run and rank 1 waits for it in barrier"));
}

TEST_CASE("sockets: who does not come, comes twice or counts otherwise is named", "[threads]") {
  auto ports = free_ports(1);
  auto endings = each(2, [&](int rank) { sockets::connect_all(place_of(rank, 3, ports), seconds(1)); });
  CHECK_THAT(endings[0], Contains("rank 2 of 3 did not come"));
  CHECK_THAT(endings[1], Contains("rank 0 at 127.0.0.1 ended, or not all ranks came in 1 s"));

  ports = free_ports(1);
  endings = each(1, [&](int) { sockets::connect_all(place_of(1, 2, ports), seconds(1)); });
  CHECK_THAT(endings[0], Contains("rank 1 of 2 on ") && Contains("found no rank 0 (by a test): 127.0.0.1:"));

  ports = free_ports(1);
  endings = each(3, [&](int rank) { sockets::connect_all(place_of(std::min(rank, 1), 3, ports), seconds(10)); });
  CHECK_THAT(endings[0], Contains("two processes say that they are rank 1"));
  CHECK_THAT(endings[1] + endings[2], Contains("refused this process: two processes say that they are rank 1"));

  ports = free_ports(1);
  endings = each(2, [&](int rank) { sockets::connect_all(place_of(rank, 2 + rank, ports), seconds(10)); });
  CHECK_THAT(endings[0], Contains("says that there are 3 ranks") && Contains("that there are 2"));
  CHECK_THAT(endings[1], Contains("refused this process"));

  endings = each(1, [&](int) {
    Place place = place_of(1, 2, {1});
    place.address = "no.such.host.invalid";
    sockets::connect_all(std::move(place), seconds(1));
  });
  CHECK_THAT(endings[0], Contains("no.such.host.invalid"));
}

TEST_CASE("sockets: an earlier job that still listens is passed by, a taken port is not waited for", "[threads]") {
  const auto ports = free_ports(2);
  const auto endings = each(4, [&](int thread) {
    const int rank = thread % 2;
    // The earlier job waits for a rank that does not come.
    if (thread < 2) {
      if (rank == 0) sockets::connect_all(place_of(0, 3, {ports[0]}, "the earlier"), seconds(3));
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    const auto peers = sockets::connect_all(place_of(rank, 2, ports, "the later"), seconds(20));
    if (!peers[static_cast<std::size_t>(1 - rank)].socket) fail("no connection");
  });
  CHECK_THAT(endings[0], Contains("ranks 1, 2 of 3 did not come"));
  CHECK(endings[2] == "");
  CHECK(endings[3] == "");

  const auto held = sockets::listen_on(0);
  const auto refused =
      each(1, [&](int) { sockets::connect_all(place_of(0, 2, {sockets::port_of(*held)}), seconds(5)); });
  CHECK_THAT(refused[0], Contains("is taken, perhaps by an earlier job that has not ended: set MASTER_PORT"));
}

TEST_CASE("sockets: strangers that connect keep nobody out", "[threads]") {
  const auto ports = free_ports(1);
  const auto endings = each(3, [&](int thread) {
    if (thread == 2) {
      std::string why;
      std::optional<sockets::Socket> stranger;
      while (!stranger)
        stranger = sockets::connect_to("127.0.0.1", ports[0], std::chrono::steady_clock::now() + seconds(1), why);
      const std::string words(200, 'x');
      (void)sockets::send_all(*stranger, words.data(), words.size(), std::chrono::steady_clock::now() + seconds(1));
      return;
    }
    if (thread == 1) std::this_thread::sleep_for(std::chrono::milliseconds(200));
    sockets::connect_all(place_of(thread, 2, ports), seconds(30));
  });
  CHECK(endings == std::vector<std::string>(3));
}

TEST_CASE("sockets: the first host of a Slurm list") {
  CHECK(sockets::first_host("n1") == "n1");
  CHECK(sockets::first_host("n1,n2") == "n1");
  CHECK(sockets::first_host("gpu[003-010,12]") == "gpu003");
  CHECK(sockets::first_host("gpu[7,9-10],login1") == "gpu7");
  CHECK(sockets::first_host("r[1-2]n[3-4].site") == "r1n3.site");
  CHECK_THROWS_WITH(sockets::first_host("n[1-2"), Contains("without its ]"));
  CHECK_THROWS_WITH(sockets::first_host(""), Contains("names no host"));
}

TEST_CASE("sockets: who a process is, as launchers say it") {
  std::map<std::string, const char*> none;
  for (const char* name :
       {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS",
        "SLURM_STEP_NODELIST", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT", "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMI_SIZE", "LONGHAUL_JOB_TOKEN"})
    none[name] = nullptr;
  const auto with = [&](std::map<std::string, const char*> values) {
    for (const auto& [name, value] : none) values.emplace(name, value);
    return values;
  };
  const auto slurm = with({{"SLURM_PROCID", "3"},
                           {"SLURM_STEP_NUM_TASKS", "8"},
                           {"SLURM_STEP_NODELIST", "n[2-3]"},
                           {"SLURM_JOB_ID", "77"},
                           {"SLURM_STEP_ID", "0"}});
  Place first;
  {
    const ScopedEnvironment scope(slurm);
    first = sockets::place_from_environment();
    CHECK(first.rank == 3);
    CHECK(first.size == 8);
    CHECK(first.address == "n2");
    CHECK(first.ports.size() == 8);
    for (const int port : first.ports) CHECK((port >= 20000 && port < 30000));
    CHECK(first.source == "Slurm step 77.0");
  }
  for (const char* changed : {"SLURM_STEP_ID", "SLURM_RESTART_COUNT", "LONGHAUL_JOB_TOKEN"}) {
    auto values = slurm;
    values[changed] = "5";
    const ScopedEnvironment scope(values);
    INFO(changed);
    CHECK(sockets::place_from_environment().token != first.token);
  }
  {
    auto values = slurm;
    values["MASTER_ADDR"] = "head";
    values["MASTER_PORT"] = "1234";
    const ScopedEnvironment scope(values);
    const Place place = sockets::place_from_environment();
    CHECK(place.address == "head");
    CHECK(place.ports == std::vector{1234});
  }
  {
    const ScopedEnvironment scope(with({{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "head"}}));
    const Place place = sockets::place_from_environment();
    CHECK(place.rank == 1);
    CHECK(place.ports == std::vector{29500});
  }
  const auto refused = [&](const std::map<std::string, const char*>& values, const std::string& message) {
    const ScopedEnvironment scope(with(values));
    CHECK_THROWS_WITH(sockets::place_from_environment(), Contains(message));
  };
  refused({}, "nothing says which of how many processes this is");
  refused({{"RANK", "2"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "h"}}, "RANK is '2'; it must be a number from 0 to 1");
  refused({{"RANK", "1x"}, {"WORLD_SIZE", "2"}}, "RANK is '1x'");
  refused({{"RANK", "0"}, {"WORLD_SIZE", "0"}}, "WORLD_SIZE is '0'; it must be a number from 1 to 4096");
  refused({{"RANK", "0"}, {"WORLD_SIZE", "2"}}, "nothing says where rank 0 is: set MASTER_ADDR");
  refused({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "h"}, {"MASTER_PORT", "99999"}},
          "MASTER_PORT is '99999'");
}

#ifndef LONGHAUL_THREAD_SANITIZER  // which does not follow a fork
TEST_CASE("sockets: processes that this one starts end as their worst, and a killed one ends all", "[threads]") {
  CHECK(run_processes(1, [](Communicator& world) { return world.size(); }) == 1);
  CHECK(run_processes(3, [](Communicator& world) {
          check_collectives(world, false);
          check_traffic(world);
          return 80 + world.rank();
        }) == 82);
  CHECK(run_processes(3, [](Communicator& world) {
          if (world.rank() == 1) fail("a message of a test: disk full");
          world.barrier();
          return 0;
        }) == 1);
  const auto start = std::chrono::steady_clock::now();
  CHECK(run_processes(3, [](Communicator& world) {
          if (world.rank() == 1) ::kill(::getpid(), SIGKILL);
          for (;;) world.barrier();
          return 0;
        }) == 128 + SIGKILL);
  // Without one that sees the signal, as under another launcher.
  CHECK(run_processes(3, [](Communicator& world) {
          if (world.rank() == 1) ::_exit(0);
          for (;;) world.barrier();
          return 0;
        }) == exit_lost_rank);
  CHECK(std::chrono::steady_clock::now() - start < seconds(20));
}

TEST_CASE("sockets: a rank that stands still when another has failed is killed, after a word about it", "[threads]") {
  std::FILE* const file = std::tmpfile();
  REQUIRE(file);
  const int error = ::dup(2);
  REQUIRE(::dup2(::fileno(file), 2) == 2);
  const auto start = std::chrono::steady_clock::now();
  const int code = run_processes(
      2,
      [](Communicator& world) {
        world.barrier();
        if (world.rank() == 1) ::raise(SIGSTOP);
        fail("a message of a test: disk full");
        return 0;
      },
      std::chrono::milliseconds(1000));
  const auto took = std::chrono::steady_clock::now() - start;
  ::dup2(error, 2);
  ::close(error);
  std::rewind(file);
  std::string said(4096, 0);
  said.resize(std::fread(said.data(), 1, said.size(), file));
  std::fclose(file);
  CHECK(code == 1);
  CHECK(took < seconds(20));
  CHECK_THAT(said, Catch::Contains("disk full") &&
                       Catch::Contains("a rank has failed; still there: rank 1 (process ") &&
                       Catch::Contains("killed unless gone 1 s after"));
}
#endif
