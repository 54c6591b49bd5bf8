// Ranks as threads of one process: every member publishes its pointers, and each copies what it needs straight from the
// others' buffers.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/threads/world.h"

namespace longhaul {

/// One member's side of a ThreadsGroup. Used by one thread at a time, except for abort, which any thread may call.
class ThreadsCommunicator final : public Communicator {
 public:
  ThreadsCommunicator(std::shared_ptr<ThreadsGroup> group, int rank);

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::string_view transport() const override { return "threads"; }
  bool one_process() const override { return true; }
  bool concurrent() const override { return true; }
  std::unique_ptr<Communicator> group(const std::vector<int>& members) override;

  void all_to_all(const void* send, void* receive, std::size_t bytes_per_peer) override;
  void all_gather(const void* send, void* receive, std::size_t bytes_per_rank) override;
  void reduce_scatter(const void* send, void* receive, std::size_t count_per_rank, DType type, void* scratch) override;
  void all_reduce(const void* send, void* receive, std::size_t count, DType type, void* scratch) override;
  void broadcast(void* buffer, std::size_t bytes, int root) override;
  void send_receive(const void* send, std::size_t send_bytes, int to, void* receive, std::size_t receive_bytes,
                    int from) override;
  void barrier() override;
  void abort(const std::string& message) noexcept override;
  void look() override;

 private:
  /// The k-th other rank, k = 1 ... size - 1, starting after the own one so that members do not all read the same one.
  int peer(int k) const { return (rank_ + k) % size_; }
  void publish(const void* send, void* receive, std::size_t bytes = 0, int to = -1);

  const std::shared_ptr<ThreadsGroup> group_;
  const int rank_;
  const int size_;
  std::map<std::vector<int>, int> groups_made_;  // by member list
  std::vector<const void*> inputs_;              // of a sum, by rank
};

}  // namespace longhaul
