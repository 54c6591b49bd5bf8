// Ranks as processes that found one another by themselves: collectives over TCP connections of all pairs.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/sockets/mesh.h"

namespace longhaul {

/// Data moves from and to the caller's buffers; sums are made as on threads and under MPI, in rank order.
class SocketsCommunicator final : public Communicator {
 public:
  /// Over `members` (ranks of the mesh, its own among them, in the order of the ranks of this communicator).
  SocketsCommunicator(std::shared_ptr<sockets::Mesh> mesh, std::vector<int> members);

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(members_.size()); }
  std::string_view transport() const override { return "sockets"; }
  bool one_process() const override { return mesh_->size() == 1; }
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
  void look() override { mesh_->look(); }

 private:
  sockets::Message& with(int rank) { return mesh_->message(members_[static_cast<std::size_t>(rank)]); }
  void exchange(const char* what) { mesh_->exchange(group_, what); }
  /// Piece `piece` of every other rank's chunk to it, theirs of the own chunk into `scratch`; then the sum in rank
  /// order into `result`, which is piece `piece` of the own chunk.
  void sum_piece(const void* send, std::size_t chunk, std::size_t count, DType type, std::size_t piece, void* scratch,
                 void* result, const char* what);

  std::shared_ptr<sockets::Mesh> mesh_;
  std::vector<int> members_;
  int rank_ = 0;
  std::uint32_t group_ = 0;          // a hash of its members
  std::vector<const void*> inputs_;  // of a sum, by rank
};

}  // namespace longhaul
