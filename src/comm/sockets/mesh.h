// Messages between all pairs of ranks, each pair over one connection, both ways at once.
#pragma once
#include <poll.h>

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "base/error.h"
#include "comm/sockets/rendezvous.h"

namespace longhaul::sockets {

/// What one exchange sends to and receives from one rank; null: nothing.
struct Message {
  const void* send = nullptr;
  std::size_t send_bytes = 0;
  void* receive = nullptr;
  std::size_t receive_bytes = 0;
};

/// Another rank is gone without having said why.
class LostRank : public Error {
 public:
  using Error::Error;
};

/// One thread at a time exchanges; any may abort. A message carries the number of its group and its length, and a rank
/// that gets another one than it waits for stops with both. Allocates nothing in an exchange.
class Mesh {
 public:
  Mesh(int rank, std::vector<Peer> peers);
  /// Says goodbye and waits until the others have, at most some seconds. After a failure: closes.
  ~Mesh();
  Mesh(const Mesh&) = delete;
  Mesh& operator=(const Mesh&) = delete;

  int rank() const { return rank_; }
  int size() const { return static_cast<int>(peers_.size()); }

  /// The message for and of a rank in the next exchange: filled in by the caller, empty after it.
  Message& message(int rank) { return messages_[static_cast<std::size_t>(rank)]; }
  /// Sends and receives all messages; returns when buffers may be used. `what` is a literal, for errors. Waits in poll,
  /// so that other processes have the core. Throws PeerFailure when another rank has failed and said why, LostRank
  /// when one is gone without a word.
  void exchange(std::uint32_t group, const char* what);

  /// Throws what an exchange with them would, where a rank has failed or is gone; waits for nothing.
  void look();

  /// Whoever waits for this rank, now or later, gets PeerFailure with the message; so does this rank itself.
  void abort(const std::string& message, int code = 1) noexcept;
  /// The exit code that goes with the failure: 1, or what the rank that failed gave with it.
  int failure_code();

 private:
  struct Head {
    std::uint32_t mark, group;  // of a failure: its exit code
    std::uint64_t bytes;
  };
  /// How far the current exchange is with one rank.
  struct Progress {
    Head out{}, in{};
    std::size_t sent = 0, received = 0;  // heads included
    bool sending = false, receiving = false;
  };
  bool send_some(std::size_t peer, const char* what);
  bool receive_some(std::size_t peer, std::uint32_t group, const char* what);
  void look_at(std::size_t peer, const char* what);
  bool has_failed(std::size_t peer);
  [[noreturn]] void lost(std::size_t peer, const char* what);
  [[noreturn]] void told(std::size_t peer);
  void wait(const char* what);
  void end_exchange() noexcept;
  void throw_aborted();
  void say(std::uint32_t mark, const std::string& text, int code = 0) noexcept;

  const int rank_;
  std::vector<Peer> peers_;
  std::vector<Message> messages_;
  std::vector<Progress> progress_;
  std::vector<bool> gone_;  // said goodbye: it will send nothing more
  std::vector<pollfd> polled_;
  Socket wake_;  // an eventfd: abort() in another thread

  std::mutex mutex_;  // of what follows
  bool busy_ = false;
  bool failed_ = false;
  std::string failure_;
  int code_ = 1;
};

}  // namespace longhaul::sockets
