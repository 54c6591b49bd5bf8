// What the ranks of one process share: the world (who failed first, which groups exist) and, for each group, the place
// where its members publish their pointers and wait for one another.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "comm/communicator.h"

namespace longhaul {

class ThreadsGroup;

/// Thread-safe. Lives in the launch; outlives every use of its groups.
class ThreadsWorld {
 public:
  /// The failure that the launch reports.
  struct Failure {
    int rank = -1;
    std::string message;
    /// Null when a rank called abort.
    std::exception_ptr exception;
    /// The rank stopped because of another one's failure.
    bool peer = false;
  };

  explicit ThreadsWorld(int size) : size_(size) {}

  /// The communicators over all ranks, one for each rank.
  std::vector<std::unique_ptr<Communicator>> communicators();

  /// Records a failure and wakes every rank that waits. The first one gives the message of every PeerFailure; the first
  /// one that is no peer's is reported.
  void fail(Failure failure) noexcept;
  bool failed() const { return failed_.load(std::memory_order_acquire); }
  /// Throws PeerFailure with the message of the first failure. Only after failed().
  [[noreturn]] void throw_peer_failure();
  /// The failure to report; rank < 0 when there is none.
  Failure failure();

  /// Names one group: the group it was made from, its members there, and which of the groups of this list it is.
  using Key = std::tuple<std::uint64_t, std::vector<int>, int>;
  /// The group of this key; the first member to come makes it. `world_ranks`: its members' ranks in the world. Throws
  /// PeerFailure after failed().
  std::shared_ptr<ThreadsGroup> join(const Key& key, const std::vector<int>& world_ranks);

 private:
  struct Forming {
    std::shared_ptr<ThreadsGroup> group;
    std::size_t joined = 0;
  };

  const int size_;
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  std::string message_;  // of the first failure
  Failure reported_;     // may replace a peer's
  std::uint64_t next_group_ = 0;
  std::map<Key, Forming> forming_;                   // groups that not all members have joined
  std::vector<std::weak_ptr<ThreadsGroup>> groups_;  // to wake
};

/// One member's part of the call in progress.
struct alignas(64) ThreadsSlot {
  const void* send = nullptr;
  void* receive = nullptr;
  std::size_t bytes = 0;
  int to = -1;
};

/// What must be equal on all members of a call. kind == count_: a barrier.
struct ThreadsCall {
  Collective kind = Collective::count_;
  std::size_t amount = 0;  // bytes or elements
  int detail = 0;          // root or element type
  bool operator==(const ThreadsCall&) const = default;
};

class ThreadsGroup {
 public:
  ThreadsGroup(ThreadsWorld& world, std::uint64_t id, std::vector<int> world_ranks);

  ThreadsWorld& world() { return world_; }
  std::uint64_t id() const { return id_; }
  const std::vector<int>& world_ranks() const { return world_ranks_; }
  int size() const { return static_cast<int>(world_ranks_.size()); }
  ThreadsSlot& slot(int rank) { return slots_[static_cast<std::size_t>(rank)]; }

  /// Waits until all members have begun this call, with their slots filled. Either all members pass or none does:
  /// throws PeerFailure once a rank of the world has failed, std::logic_error when this member's call differs from the
  /// others'.
  void enter(const ThreadsCall& call);
  /// Waits until all members have come as far. Between enter and the last meet of a call no member may throw, so this
  /// always ends: a failure elsewhere must not let a member free buffers that others still read.
  void meet();
  /// Wakes the members that wait in enter, so that they see that the world has failed.
  void wake();

 private:
  bool arrive();

  ThreadsWorld& world_;
  const std::uint64_t id_;
  const std::vector<int> world_ranks_;
  std::vector<ThreadsSlot> slots_;
  std::mutex mutex_;
  std::condition_variable all_here_;
  int arrived_ = 0;
  std::uint64_t generation_ = 0;
  ThreadsCall call_;  // of the first member to enter
};

}  // namespace longhaul
