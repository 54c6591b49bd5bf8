// Communication between ranks through memory of the host: one interface, several transports (threads of one process,
// MPI, sockets). It is the control plane of every run (outcomes, checkpoints, texts) and the data plane of the CPU
// executor; what a device sends by itself, and what runs beside computation, is its executor's.
//
// Every data call blocks until this rank may read `receive` and reuse `send` and `scratch`.
//
// All ranks of a group issue the same calls in the same order. Reductions add in rank order 0, 1, ..., n-1 whatever the
// transport, so that threads and MPI agree bitwise; bfloat16 (and float32) sums accumulate in float32, float64 in
// float64, and round once.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"

namespace longhaul {

enum class Collective : std::uint8_t {
  all_to_all,
  all_gather,
  reduce_scatter,
  all_reduce,
  broadcast,
  send_receive,
  count_
};
std::string_view name_of(Collective kind);

/// What one rank has issued on one group, by kind. Bytes are those that leave the rank, by these formulas (n = group
/// size): all_to_all (n-1)·bytes_per_peer; all_gather (n-1)·bytes_per_rank; reduce_scatter (n-1)·chunk bytes;
/// all_reduce 2·(n-1)·ceil(count/n)·element size; broadcast (n-1)·bytes at the root, 0 elsewhere; send_receive: bytes
/// sent, 0 to itself. Barriers are not counted; agree() counts as what it issues (an all_gather of 8 bytes, and on
/// failure broadcasts of the message and its length). A group's calls count on the group, not on its parent.
struct Traffic {
  struct Row {
    std::int64_t calls = 0;
    std::int64_t bytes_sent = 0;
  };
  std::array<Row, static_cast<std::size_t>(Collective::count_)> rows{};
  Row& operator[](Collective kind) { return rows[static_cast<std::size_t>(kind)]; }
  const Row& operator[](Collective kind) const { return rows[static_cast<std::size_t>(kind)]; }
};

/// One thread at a time may use a communicator (abort: any thread, at any time). Wrong arguments (a rank outside the
/// group, an integer type in a reduction) are std::logic_error; a rank that failed makes the others' calls throw
/// PeerFailure. Data calls allocate nothing.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// "threads", "mpi" or "sockets".
  virtual std::string_view transport() const = 0;

  /// A communicator over `members` (ranks of this one, in the order of the new ranks; holds rank()). Collective over
  /// `members` only: every member calls it with the same list, and members of one list make their groups in the same
  /// order.
  virtual std::unique_ptr<Communicator> group(const std::vector<int>& members) = 0;

  /// send holds size() blocks of bytes_per_peer, block i for rank i; receive gets block i from rank i. Buffers may not
  /// overlap.
  virtual void all_to_all(const void* send, void* receive, std::size_t bytes_per_peer) = 0;
  /// receive gets size() blocks of bytes_per_rank in rank order. `send` may be its own block inside `receive`.
  virtual void all_gather(const void* send, void* receive, std::size_t bytes_per_rank) = 0;
  /// send holds size()·count_per_rank elements; receive gets the sum over ranks of block rank(). `receive` may be the
  /// own block of `send`. float64, float32 or bfloat16.
  virtual void reduce_scatter(const void* send, void* receive, std::size_t count_per_rank, DType type,
                              void* scratch) = 0;
  /// The sum over ranks, on every rank. `receive` may be `send`.
  virtual void all_reduce(const void* send, void* receive, std::size_t count, DType type, void* scratch) = 0;
  /// Copies root's buffer to every rank's.
  virtual void broadcast(void* buffer, std::size_t bytes, int root) = 0;
  /// Sends to rank `to` and receives from rank `from`; every rank of the group calls it and each is the target of one
  /// (a permutation). A rank may be its own partner, then both ways. Lengths may differ from pair to pair, and be 0.
  virtual void send_receive(const void* send, std::size_t send_bytes, int to, void* receive, std::size_t receive_bytes,
                            int from) = 0;
  virtual void barrier() = 0;

  /// Bytes of scratch that a reduction of `count` elements in all (reduce_scatter: size()·count_per_rank) needs on a
  /// group of `size` ranks: the same for every transport, so that a memory plan does not depend on the launch line.
  /// 64-byte multiples.
  static std::size_t reduction_scratch_bytes(int size, std::size_t count, DType type);

  /// Marks this rank as failed: every call that another rank is blocked in, or makes later, throws PeerFailure with
  /// this message. Under MPI it aborts the job after printing the message. Never throws.
  virtual void abort(const std::string& message) noexcept = 0;

  /// Looks, without waiting, whether another rank has failed, and throws what a call that waits for it would: for a
  /// rank that waits for something else. A transport that ends the job itself (MPI) has nothing to look at.
  virtual void look() {}

  /// From now on data calls let go of the processor while they wait for other ranks, at the price of some microseconds
  /// each: for a thread beside others that compute.
  virtual void wait_patiently() {}

  /// Whether communicators that are made of this one and its groups may each be used by a thread of its own at the same
  /// time; else one thread at a time uses all of them.
  virtual bool concurrent() const { return false; }

  /// Whether all ranks are threads of this process (and share its clocks and its memory).
  virtual bool one_process() const = 0;

  const Traffic& traffic() const { return traffic_; }
  void reset_traffic() { traffic_ = {}; }

 protected:
  void count(Collective kind, std::size_t bytes) {
    traffic_[kind].calls += 1;
    traffic_[kind].bytes_sent += static_cast<std::int64_t>(bytes);
  }
  Traffic traffic_;
};

}  // namespace longhaul
