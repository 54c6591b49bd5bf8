// Push collectives between two processes that share the memory of one device by handles (share_memory, open_memory): on
// the emulator files of /proc, on a GPU cudaIpc. The test starts its own program again as the other rank, because a
// process that has used a GPU cannot be forked.
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <stdexcept>
#include <thread>

#include "tests/gpu_emulator/collectives_run.h"

namespace longhaul::test {
namespace {

constexpr int kPeer = 3;  // where the other process finds its end of the sockets
const char* const kOtherRank = "rank 1 of the collectives between processes";

// This process's end of a pair of sockets. Throws when the other process is gone, or says nothing for a minute.
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
    if (poll(&said, 1, 60000) != 1) throw std::runtime_error("no word from the other process for a minute");
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
  [[noreturn]] static void gone() { throw std::runtime_error("the other process is gone"); }
  int socket_;
};

// The part of one of the two ranks.
void push_as(int rank, const Peer& peer) {
  for_each_schedule(3, [&] {
    const std::size_t bytes = device().peer_workspace_bytes(CollectiveRounds::kPayload);
    const DeviceArray<char> workspace(bytes);
    const CollectiveRounds rounds(2, 2);
    cuda::Stream stream = nullptr;
    succeed(device().stream_create(&stream));
    succeed(device().fill(workspace.data(), 0, bytes, nullptr));
    succeed(device().synchronize());
    char handle[64];
    void* theirs = nullptr;
    succeed(device().share_memory(workspace.data(), handle));
    peer.send(handle, sizeof handle);
    peer.receive(handle, sizeof handle);
    succeed(device().open_memory(handle, &theirs));
    cuda::PeerGroup group{rank, 2, static_cast<std::int64_t>(bytes), {}};
    group.peers[rank] = workspace.data(), group.peers[1 - rank] = theirs;
    // One comes later than the other, this time or the next.
    if (rank == 1) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::uint32_t epoch = 1;
    for (int round = 0; round < 2; round++) epoch = rounds.queue(round, rank, group, epoch, stream);
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    for (std::int32_t done = 0; !done;) {  // asked, not waited for: only then do we see that the other is gone
      peer.look();
      if (std::chrono::steady_clock::now() > deadline) throw std::runtime_error("the device waits for a minute");
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      succeed(device().stream_query(stream, &done));
    }
    for (int round = 0; round < 2; round++) rounds.check(round, rank);
    peer.meet();  // nobody writes into the other's memory any more
    succeed(device().close_memory(theirs));
    succeed(device().stream_destroy(stream));
    peer.meet();
  });
}

}  // namespace

TEST_CASE("push collectives between two processes that share a device's memory") {
  int ends[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  std::vector<std::string> words = device_arguments();
  words.insert(words.begin(), "/proc/self/exe"), words.emplace_back(kOtherRank);
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], kPeer);
  pid_t other = 0;
  const int failed = posix_spawn(&other, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  std::string said;
  {
    const Peer peer(ends[0]);
    REQUIRE(failed == 0);
    try {
      push_as(0, peer);
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
  push_as(1, Peer(kPeer));
}

}  // namespace longhaul::test
