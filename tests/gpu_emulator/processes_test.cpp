// Push collectives between two threads, each on a device of its own where there are two, and between two processes that
// share the memory of one device by handles (share_memory, open_memory): on the emulator files of /proc, on a GPU
// cudaIpc. The test starts its own program again as the other rank, because a process that has used a GPU cannot be
// forked.
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <thread>

#include "tests/gpu_emulator/collectives_run.h"

namespace longhaul::test {
namespace {

constexpr int kPeer = 3;  // where the other process finds its end of the sockets
const char* const kOtherRank = "rank 1 of the collectives between processes";

// One rank's end of a pair of sockets. Throws when the other rank is gone, or says nothing for a minute.
class Peer {
 public:
  explicit Peer(int socket) : socket_(socket) {}
  ~Peer() { close(socket_); }
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  void send(const void* from, std::size_t bytes) const {
    if (::send(socket_, from, bytes, MSG_NOSIGNAL) != static_cast<ssize_t>(bytes)) gone();
  }
  void receive(void* to, std::size_t bytes) const {
    pollfd said{socket_, POLLIN, 0};
    if (poll(&said, 1, 60000) != 1) throw std::runtime_error("no word from the other rank for a minute");
    if (recv(socket_, to, bytes, MSG_WAITALL) != static_cast<ssize_t>(bytes)) gone();
  }
  void meet() const {
    char word = 'm';
    send(&word, 1), receive(&word, 1);
  }
  void look() const {
    char word;
    if (recv(socket_, &word, 1, MSG_PEEK | MSG_DONTWAIT) == 0) gone();
  }

 private:
  [[noreturn]] static void gone() { throw std::runtime_error("the other rank is gone"); }
  int socket_;
};

// The part of one of the two ranks: what it has on its device, and what it asks of it.
class Part {
 public:
  explicit Part(int rank) : rank_(rank), workspace_(bytes_), rounds_(2, 2) {
    succeed(device().stream_create(&stream_));
    succeed(device().fill(workspace_.data(), 0, bytes_, nullptr));
    succeed(device().synchronize());
  }
  ~Part() { device().stream_destroy(stream_); }
  Part(const Part&) = delete;
  Part& operator=(const Part&) = delete;

  void run(const Peer& peer, bool same_process) const {
    char handle[64] = {};
    void* theirs = workspace_.data();
    if (same_process)
      std::memcpy(handle, &theirs, sizeof theirs);
    else
      succeed(device().share_memory(theirs, handle));
    peer.send(handle, sizeof handle);
    peer.receive(handle, sizeof handle);
    if (same_process)
      std::memcpy(&theirs, handle, sizeof theirs);
    else
      succeed(device().open_memory(handle, &theirs));
    cuda::PeerGroup group{rank_, 2, static_cast<std::int64_t>(bytes_), {}};
    group.peers[rank_] = workspace_.data(), group.peers[1 - rank_] = theirs;
    // One comes later than the other.
    if (rank_ == 1) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::uint32_t epoch = 1;
    for (int round = 0; round < 2; round++) epoch = rounds_.queue(round, rank_, group, epoch, stream_);
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    for (std::int32_t done = 0; !done;) {  // asked, not waited for: only then do we see that the other is gone
      peer.look();
      if (std::chrono::steady_clock::now() > deadline) throw std::runtime_error("the device waits for a minute");
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      succeed(device().stream_query(stream_, &done));
    }
    peer.meet();  // nobody writes into the other's memory any more
    if (!same_process) succeed(device().close_memory(theirs));
    peer.meet();
  }
  void check() const {
    for (int round = 0; round < 2; round++) rounds_.check(round, rank_);
  }

 private:
  int rank_;
  std::size_t bytes_ = device().peer_workspace_bytes(CollectiveRounds::kPayload);
  DeviceArray<char> workspace_;
  CollectiveRounds rounds_;
  cuda::Stream stream_ = nullptr;
};

void push_to_another_process(int rank, const Peer& peer) {
  for_each_schedule(3, [&] {
    const Part part(rank);
    part.run(peer, false);
    part.check();
  });
}

struct Sockets {
  int ends[2];
  Sockets() { REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0); }
};

}  // namespace

TEST_CASE("push collectives between two threads") {
  std::int32_t devices = 0;
  succeed(device().device_count(&devices));
  for_each_schedule(3, [&] {
    const Sockets sockets;
    std::unique_ptr<Part> parts[2];
    std::string said[2];
    const auto work = [&](int rank) {
      const Peer peer(sockets.ends[rank]);
      try {
        succeed(device().device_select(rank % devices));
        if (devices > 1) succeed(device().reach_device(1 - rank));
        parts[rank] = std::make_unique<Part>(rank);
        parts[rank]->run(peer, true);
      } catch (const std::exception& error) {
        said[rank] = error.what();
      }
    };
    std::thread other(work, 1), one(work, 0);
    other.join(), one.join();
    for (int rank = 0; rank < 2; rank++) {
      CHECK(said[rank] == "");
      if (said[rank].empty()) parts[rank]->check();
    }
  });
}

TEST_CASE("push collectives between two processes that share a device's memory") {
  const Sockets sockets;
  std::vector<std::string> words = device_arguments();
  words.insert(words.begin(), "/proc/self/exe"), words.emplace_back(kOtherRank);
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, sockets.ends[1], kPeer);
  pid_t other = 0;
  const int failed = posix_spawn(&other, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(sockets.ends[1]);
  std::string said;
  {
    const Peer peer(sockets.ends[0]);
    REQUIRE(failed == 0);
    try {
      push_to_another_process(0, peer);
    } catch (const std::exception& error) {
      said = error.what();
    }
  }
  int status = -1;
  REQUIRE(waitpid(other, &status, 0) == other);  // it ends when it has done its part, or finds this end closed
  CHECK(said == "");
  CHECK(status == 0);
}

// Started by the test before, and by nothing else.
TEST_CASE(kOtherRank, "[.process]") {
  push_to_another_process(1, Peer(kPeer));
}

}  // namespace longhaul::test
