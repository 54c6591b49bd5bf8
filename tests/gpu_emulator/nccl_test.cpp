// The emulator's NCCL, by the same table as the library's: what it moves, that its sums go around a ring, that nothing
// blocks, and what it says of ids and operations that do not fit.
#include <array>
#include <catch2/catch.hpp>
#include <deque>
#include <thread>

#include "tests/gpu_emulator/device_under_test.h"
#include "tests/gpu_emulator/emulator/core.h"

namespace longhaul::test {
namespace {

struct Rank {
  int rank = 0;
  void* communicator = nullptr;
  cuda::Stream stream = nullptr;
  std::string said;
};

bool under_way(void* communicator) {
  std::int32_t in_progress = 0;
  succeed(device().nccl_state(communicator, &in_progress));
  return in_progress;
}
void wait(cuda::Stream stream) {
  for (std::int32_t done = 0; !done; std::this_thread::yield()) succeed(device().stream_query(stream, &done));
}

// Every rank a thread on a device of its own, with a communicator of all.
void on_ranks(int ranks, const std::function<void(Rank&)>& body, std::vector<Rank>* outcome = nullptr) {
  std::array<char, 128> id{};
  succeed(device().nccl_unique_id(id.data()));
  std::vector<Rank> all(static_cast<std::size_t>(ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; rank++)
    threads.emplace_back([&, rank] {
      Rank& mine = all[static_cast<std::size_t>(rank)];
      mine.rank = rank;
      try {
        succeed(device().device_select(rank));
        succeed(device().stream_create(&mine.stream));
        succeed(device().nccl_begin(id.data(), rank, ranks, &mine.communicator));
        while (under_way(mine.communicator)) std::this_thread::yield();
        body(mine);
        succeed(device().nccl_destroy(mine.communicator));
      } catch (const std::exception& error) {
        mine.said = error.what();
      }
      device().stream_destroy(mine.stream);
    });
  for (std::thread& thread : threads) thread.join();
  if (outcome)
    *outcome = all;
  else
    for (const Rank& one : all) CHECK(one.said == "");
}

}  // namespace

TEST_CASE("emulated NCCL moves what ranks send, of any length, again and again") {
  on_ranks(3, [](Rank& mine) {
    for (int round = 0; round < 5; round++) {
      // Rank r sends r + 1 + round floats to every other, of value 100 round + 10 r + peer.
      std::deque<DeviceArray<float>> sent, got;
      std::vector<cuda::NcclTransfer> transfers;
      for (int k = 1; k < 3; k++) {
        const int peer = (mine.rank + k) % 3;
        const float value = static_cast<float>(100 * round + 10 * mine.rank + peer);
        sent.emplace_back(std::vector<float>(static_cast<std::size_t>(mine.rank + 1 + round), value));
        got.emplace_back(static_cast<std::size_t>(peer + 1 + round));
        transfers.push_back(
            {peer, sent.back().data(), (mine.rank + 1 + round) * 4, got.back().data(), (peer + 1 + round) * 4});
      }
      const DeviceArray<float> own(std::vector<float>(3, static_cast<float>(mine.rank))), all(9);
      succeed(device().nccl_exchange(mine.communicator, transfers.data(), 2, mine.stream));
      succeed(device().nccl_all_gather(mine.communicator, own.data(), all.data(), 12, mine.stream));
      wait(mine.stream);
      for (std::size_t k = 0; k < 2; k++) {
        const int peer = transfers[k].peer;
        for (const float value : got[k].values())
          if (value != static_cast<float>(100 * round + 10 * peer + mine.rank))
            throw std::runtime_error("a message is another one's");
      }
      if (all.values() != std::vector<float>{0, 0, 0, 1, 1, 1, 2, 2, 2}) throw std::runtime_error("gathered wrongly");
    }
  });
}

TEST_CASE("emulated NCCL adds around a ring, each chunk from another rank on") {
  // 1 + 1e8 - 1e8: what is left depends on who comes first.
  const float values[3] = {1, 1e8f, -1e8f};
  std::vector<std::vector<float>> reduced(3), scattered(3);
  on_ranks(3, [&](Rank& mine) {
    const DeviceArray<float> from(std::vector<float>(3, values[mine.rank])), to(3), part(1);
    succeed(device().nccl_all_reduce(mine.communicator, from.data(), to.data(), 3, cuda::Type::float32, mine.stream));
    succeed(
        device().nccl_reduce_scatter(mine.communicator, from.data(), part.data(), 1, cuda::Type::float32, mine.stream));
    wait(mine.stream);
    reduced[static_cast<std::size_t>(mine.rank)] = to.values();
    scattered[static_cast<std::size_t>(mine.rank)] = part.values();
  });
  const std::vector<float> ring = {1e8f + -1e8f + 1, -1e8f + 1 + 1e8f, 1 + 1e8f + -1e8f};
  CHECK(ring[0] != ring[2]);
  for (std::size_t rank = 0; rank < 3; rank++) {
    CHECK(reduced[rank] == ring);
    CHECK(scattered[rank] == std::vector<float>{ring[rank]});
  }
}

TEST_CASE("nothing of emulated NCCL blocks: a collective waits in its stream, and goes when it is aborted") {
  std::array<char, 128> id{};
  succeed(device().nccl_unique_id(id.data()));
  void *first = nullptr, *second = nullptr;
  succeed(device().nccl_begin(id.data(), 0, 2, &first));
  CHECK(under_way(first));
  succeed(device().nccl_begin(id.data(), 1, 2, &second));
  CHECK(!under_way(first));
  CHECK(!under_way(second));
  cuda::Stream stream = nullptr;
  succeed(device().stream_create(&stream));
  void* event = nullptr;
  succeed(device().event_create(&event));
  const DeviceArray<float> from(1), to(2), after(1);
  succeed(device().nccl_all_gather(first, from.data(), to.data(), 4, stream));
  succeed(device().fill(after.data(), 0, 4, stream));
  succeed(device().event_record(event, stream));
  std::int32_t done = 1;
  succeed(device().stream_query(stream, &done));
  CHECK(!done);
  succeed(device().event_query(event, &done));
  CHECK(!done);
  succeed(device().nccl_abort(first));
  succeed(device().event_query(event, &done));
  CHECK(done);
  succeed(device().stream_synchronize(stream));
  CHECK(after.values() == std::vector<float>{0});
  succeed(device().nccl_abort(second));
  device().event_destroy(event);
  device().stream_destroy(stream);
}

TEST_CASE("a graph's collectives are new ones with every launch, and nothing is begun in a capture") {
  on_ranks(2, [](Rank& mine) {
    const DeviceArray<float> from(1), to(2);
    void* pinned = nullptr;
    succeed(device().allocate_host(&pinned, 4));
    // Not before ranks are connected.
    void* graph = nullptr;
    succeed(device().graph_begin(mine.stream));
    if (device().nccl_all_gather(mine.communicator, from.data(), to.data(), 4, mine.stream) == 0 ||
        device().graph_end(mine.stream, &graph) == 0)
      throw std::runtime_error("connected in a capture");
    succeed(device().nccl_all_gather(mine.communicator, from.data(), to.data(), 4, mine.stream));
    wait(mine.stream);
    succeed(device().graph_begin(mine.stream));
    succeed(device().nccl_all_gather(mine.communicator, from.data(), to.data(), 4, mine.stream));
    succeed(device().graph_end(mine.stream, &graph));
    for (int round = 0; round < 3; round++) {
      const float value = static_cast<float>(10 * round + mine.rank);
      std::memcpy(pinned, &value, 4);
      succeed(device().copy(from.data(), pinned, 4, mine.stream));
      // One outside of it between them.
      if (round == 1) succeed(device().nccl_all_gather(mine.communicator, from.data(), to.data(), 4, mine.stream));
      succeed(device().graph_launch(graph, mine.stream));
      wait(mine.stream);
      if (to.values() != std::vector<float>{10.0f * static_cast<float>(round), 10.0f * static_cast<float>(round) + 1})
        throw std::runtime_error("gathered wrongly");
    }
    succeed(device().graph_begin(mine.stream));
    void* another = nullptr;
    std::array<char, 128> id{};
    if (device().nccl_begin(id.data(), 0, 1, &another) == 0) throw std::runtime_error("begun in a capture");
    if (device().graph_end(mine.stream, &another) == 0) throw std::runtime_error("a graph after a refusal");
    succeed(device().graph_destroy(graph));
    succeed(device().release_host(pinned));
  });
}

TEST_CASE("a communicator of NCCL ends when no graph has calls of it") {
  std::vector<Rank> all;
  const int patience = emulator::options.patience_ms;
  emulator::options.patience_ms = 50;
  on_ranks(
      1,
      [](Rank& mine) {
        const DeviceArray<float> from(1), to(1);
        succeed(device().nccl_all_gather(mine.communicator, from.data(), to.data(), 4, mine.stream));
        wait(mine.stream);
        void* graph = nullptr;
        succeed(device().graph_begin(mine.stream));
        succeed(device().nccl_all_gather(mine.communicator, from.data(), to.data(), 4, mine.stream));
        succeed(device().graph_end(mine.stream, &graph));
        if (device().nccl_abort(mine.communicator) == 0) throw std::runtime_error("ended too early");
        succeed(device().graph_destroy(graph));
      },
      &all);
  emulator::options.patience_ms = patience;
  CHECK(all[0].said == "");
}

TEST_CASE("emulated NCCL: ids of jobs that are gone, ranks that come twice and operations that differ are said") {
  // An id as an earlier job left it: its process is gone, or is another by now.
  std::array<char, 128> id{};
  succeed(device().nccl_unique_id(id.data()));
  const auto said_of = [](const std::array<char, 128>& of, int rank) {
    void* made = nullptr;
    succeed(device().nccl_begin(of.data(), rank, 2, &made));
    std::int32_t in_progress = 0;
    const bool failed = device().nccl_state(made, &in_progress) != 0;
    const std::string said = failed ? device().last_error() : "";
    device().nccl_abort(made);
    return said;
  };
  auto stale = id;
  stale[16] ^= 1;  // of the token
  CHECK_THAT(said_of(stale, 0), Catch::Contains("connection refused") && Catch::Contains("knows nothing of this id"));
  auto gone = id;
  const std::int32_t nobody = 0x3fffffff;
  std::memcpy(gone.data() + 8, &nobody, sizeof nobody);
  CHECK_THAT(said_of(gone, 0), Catch::Contains("connection refused") && Catch::Contains("no answer"));
  CHECK(said_of(id, 0) == "");
  CHECK_THAT(said_of(id, 0), Catch::Contains("rank 0 has come twice"));

  std::vector<Rank> all;
  on_ranks(
      2,
      [](Rank& mine) {
        const DeviceArray<float> from(8), to(16);
        succeed(
            device().nccl_all_gather(mine.communicator, from.data(), to.data(), mine.rank == 0 ? 8 : 12, mine.stream));
        wait(mine.stream);
      },
      &all);
  CHECK_THAT(all[0].said + all[1].said, Catch::Contains("issue different operations"));
}

}  // namespace longhaul::test
