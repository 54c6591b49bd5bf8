#include "comm/sockets/rendezvous.h"

#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "base/error.h"
#include "base/host.h"
#include "base/log.h"

namespace longhaul::sockets {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::seconds;

constexpr char magic[8] = {'L', 'O', 'N', 'G', 'H', 'A', 'U', 'L'};
constexpr std::uint32_t protocol = 1;  // another one when any of what follows, or a message's head, changes

/// What a process says first. Numbers as they lie in memory: ranks have one order of bytes, which `protocol` shows.
struct Hello {
  char mark[8];
  std::uint32_t version;
  std::int32_t rank, size;
  std::int32_t port;  ///< on which it listens itself
  std::int64_t process;
  Token token;
  char host[72];
};
static_assert(sizeof(Hello) == 120 && std::is_trivially_copyable_v<Hello>);

/// The answer: empty, or why not.
struct Answer {
  char mark[8];
  std::int32_t other_job;  ///< 1: the listener is of another job; try elsewhere
  char reason[244];
};
static_assert(sizeof(Answer) == 256 && std::is_trivially_copyable_v<Answer>);

/// A line of the table that rank 0 gives to all.
struct Entry {
  std::int32_t port;
  std::int64_t process;
  char address[64], host[72];
};
static_assert(std::is_trivially_copyable_v<Entry>);

template <std::size_t size>
void put(char (&to)[size], const std::string& text) {
  std::memset(to, 0, size);
  std::memcpy(to, text.data(), std::min(text.size(), size - 1));
}

std::string name_of(int rank, const char* host, std::int64_t process) {
  return fmt::format("rank {} ({}, process {})", rank, host, process);
}

Hello hello_of(const Place& place, int port) {
  Hello hello{};
  std::memcpy(hello.mark, magic, sizeof magic);
  hello.version = protocol;
  hello.rank = place.rank;
  hello.size = place.size;
  hello.port = port;
  hello.process = ::getpid();
  hello.token = place.token;
  put(hello.host, host_name());
  return hello;
}

bool answer(const Socket& socket, const std::string& reason, bool other_job, Deadline deadline) {
  Answer back{};
  std::memcpy(back.mark, magic, sizeof magic);
  back.other_job = other_job;
  put(back.reason, reason);
  return send_all(socket, &back, sizeof back, deadline);
}

/// Takes those that show the token, each rank once, until `wanted` of them are there.
class Door {
 public:
  Door(const Place& place, const Socket& listener, Deadline deadline)
      : place_(place), listener_(listener), deadline_(deadline) {}

  /// Calls take(hello, accepted); waits for the ranks of `missing`.
  template <typename Take>
  void open(std::vector<int> missing, Take&& take) {
    auto tell = Clock::now() + seconds(10);
    while (!missing.empty()) {
      auto accepted = accept_until(listener_, std::min(deadline_, tell));
      const auto now = Clock::now();
      if (now >= tell) {
        log_info("sockets: waiting for rank{} {} of {}", missing.size() == 1 ? "" : "s", fmt::join(missing, ", "),
                 place_.size);
        tell = now + seconds(60);
      }
      if (!accepted) {
        if (now >= deadline_)
          fail("sockets: rank{} {} of {} did not come (this is rank {} on {}, by {})", missing.size() == 1 ? "" : "s",
               fmt::join(missing, ", "), place_.size, place_.rank, host_name(), place_.source);
        continue;
      }
      // Whoever connects and says nothing must not keep others out for long.
      const Deadline soon = std::min(deadline_, now + seconds(5));
      Hello hello{};
      if (!receive_all(accepted->socket, &hello, sizeof hello, soon)) continue;
      if (std::memcmp(hello.mark, magic, sizeof magic) != 0) continue;  // nobody of ours
      hello.host[sizeof hello.host - 1] = 0;
      if (hello.version != protocol) {
        (void)answer(accepted->socket, "it is of a version of longhaul that speaks otherwise; all ranks must be of one",
                     false, soon);
        continue;
      }
      if (hello.token != place_.token) {
        log_info("sockets: {} is of another job and was sent away", name_of(hello.rank, hello.host, hello.process));
        (void)answer(accepted->socket, "it is of another job", true, soon);
        continue;
      }
      if (hello.size != place_.size) {
        const std::string reason = fmt::format("{} says that there are {} ranks, {} that there are {}",
                                               name_of(hello.rank, hello.host, hello.process), hello.size,
                                               name_of(place_.rank, host_name().c_str(), ::getpid()), place_.size);
        (void)answer(accepted->socket, reason, false, soon);
        fail("sockets: {}", reason);
      }
      const auto found = std::find(missing.begin(), missing.end(), hello.rank);
      if (found == missing.end()) {
        const std::string reason = fmt::format("two processes say that they are rank {}; {} is the second", hello.rank,
                                               name_of(hello.rank, hello.host, hello.process));
        (void)answer(accepted->socket, reason, false, soon);
        fail("sockets: {}", reason);
      }
      if (!answer(accepted->socket, "", false, soon)) continue;
      missing.erase(found);
      take(hello, std::move(*accepted));
    }
  }

 private:
  const Place& place_;
  const Socket& listener_;
  const Deadline deadline_;
};

/// Empty when the other end takes us. Throws Error for a refusal that waiting does not mend.
std::string heard(const Socket& socket, const std::string& where, Deadline deadline) {
  Answer back{};
  if (!receive_all(socket, &back, sizeof back, deadline) || std::memcmp(back.mark, magic, sizeof magic) != 0)
    return fmt::format("{} is no longhaul, or has ended", where);
  back.reason[sizeof back.reason - 1] = 0;
  if (back.reason[0] == 0) return "";
  if (back.other_job) return fmt::format("at {} listens another job", where);
  fail("sockets: {} refused this process: {}", where, back.reason);
}

Socket listen_for(Place& place) {
  if (place.listener) return std::move(*place.listener);
  for (const int port : place.ports)
    if (auto listener = listen_on(port)) return std::move(*listener);
  fail(
      "sockets: on {}, the host of rank 0, port{} {} {} taken, perhaps by an earlier job that has not ended: set "
      "MASTER_PORT to a free one, the same for all ranks",
      host_name(), place.ports.size() == 1 ? "" : "s", fmt::join(place.ports, ", "),
      place.ports.size() == 1 ? "is" : "are all");
}

/// Tries rank 0's ports again and again: it may not have begun to listen.
Socket find_rank_0(const Place& place, const Hello& hello, Deadline deadline) {
  auto pause = std::chrono::milliseconds(20);
  auto tell = Clock::now() + std::min<Clock::duration>(seconds(10), (deadline - Clock::now()) / 4);
  std::string why;
  for (;;) {
    for (const int port : place.ports) {
      const std::string where = fmt::format("{}:{}", place.address, port);
      const Deadline soon = std::min(deadline, Clock::now() + seconds(20));
      std::string reason;
      auto socket = connect_to(place.address, port, soon, reason);
      if (!socket) {
        why = fmt::format("{}: {}", where, reason);
        continue;
      }
      if (!send_all(*socket, &hello, sizeof hello, soon)) continue;
      reason = heard(*socket, where, soon);
      if (reason.empty()) return std::move(*socket);
      why = reason;
    }
    const auto now = Clock::now();
    if (now >= deadline)
      fail("sockets: rank {} of {} on {} found no rank 0 (by {}): {}", place.rank, place.size, host_name(),
           place.source, why);
    if (now >= tell) {
      spdlog::warn("sockets: rank {} is looking for rank 0: {}", place.rank, why);
      tell = now + seconds(60);
    }
    std::this_thread::sleep_for(pause);
    pause = std::min(2 * pause, std::chrono::milliseconds(1000));
  }
}

}  // namespace

std::vector<Peer> connect_all(Place place, std::chrono::seconds patience) {
  const Deadline deadline = Clock::now() + patience;
  const auto size = static_cast<std::size_t>(place.size);
  std::vector<Peer> peers(size);
  if (place.size == 1) return peers;
  std::vector<Entry> table(size);
  std::vector<int> others;  // whom it waits for at its own door
  for (int rank = place.rank + 1; rank < place.size; ++rank) others.push_back(rank);

  const auto take = [&](const Hello& hello, Accepted accepted) {
    const auto at = static_cast<std::size_t>(hello.rank);
    peers[at] = {std::move(accepted.socket), name_of(hello.rank, hello.host, hello.process)};
    table[at].port = hello.port;
    table[at].process = hello.process;
    put(table[at].address, accepted.address);
    put(table[at].host, hello.host);
  };
  if (place.rank == 0) {
    const Socket listener = listen_for(place);
    Door(place, listener, deadline).open(others, take);
    put(table[0].host, host_name());
    table[0].process = ::getpid();
    for (const int rank : others)
      if (const Peer& peer = peers[static_cast<std::size_t>(rank)];
          !send_all(peer.socket, table.data(), size * sizeof(Entry), deadline))
        fail("sockets: {} ended while the ranks came together", peer.name);
    return peers;
  }

  const auto listener = listen_on(0);
  if (!listener) fail("sockets: {} has no free port", host_name());
  const Hello hello = hello_of(place, port_of(*listener));
  peers[0].socket = find_rank_0(place, hello, deadline);
  log_debug("sockets: rank 0 found at {}", place.address);
  if (!receive_all(peers[0].socket, table.data(), size * sizeof(Entry), deadline))
    fail("sockets: rank 0 at {} ended, or not all ranks came in {} s (this is rank {} of {} on {})", place.address,
         patience.count(), place.rank, place.size, host_name());
  peers[0].name = name_of(0, table[0].host, table[0].process);
  // First to all below, which hear of it when they open their doors, then whoever comes from above, then their answers.
  for (int rank = 1; rank < place.rank; ++rank) {
    const Entry& entry = table[static_cast<std::size_t>(rank)];
    Peer& peer = peers[static_cast<std::size_t>(rank)];
    peer.name = name_of(rank, entry.host, entry.process);
    std::string why;
    auto socket = connect_to(entry.address, entry.port, deadline, why);
    if (!socket || !send_all(*socket, &hello, sizeof hello, deadline))
      fail("sockets: rank {} on {} cannot reach {} at {}:{}: {}", place.rank, host_name(), peer.name, entry.address,
           entry.port, why.empty() ? "it has ended" : why);
    peer.socket = std::move(*socket);
  }
  Door(place, *listener, deadline).open(others, take);
  for (int rank = 1; rank < place.rank; ++rank) {
    const Peer& peer = peers[static_cast<std::size_t>(rank)];
    if (const std::string reason = heard(peer.socket, peer.name, deadline); !reason.empty())
      fail("sockets: {}", reason);
  }
  return peers;
}

}  // namespace longhaul::sockets
