// Ranks as processes under an MPI launcher.
#pragma once
#include <mpi.h>

#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace longhaul {

/// Throws Error with MPI's text when `code` is not MPI_SUCCESS; `call` names the function.
void check_mpi(int code, const char* call);

/// Data moves by nonblocking messages straight from and to the caller's buffers; blocking is left to MPI's own waiting.
/// Used by one thread at a time; several of them at the same time where MPI gives MPI_THREAD_MULTIPLE.
class MpiCommunicator final : public Communicator {
 public:
  /// `owned`: freed at the end. `largest_message`: longer ones are cut (MPI counts are int).
  MpiCommunicator(MPI_Comm communicator, bool owned, std::size_t largest_message = std::size_t{1} << 30);
  ~MpiCommunicator() override;
  MpiCommunicator(const MpiCommunicator&) = delete;
  MpiCommunicator& operator=(const MpiCommunicator&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::string_view transport() const override { return "mpi"; }
  bool one_process() const override { return size() == 1; }
  bool concurrent() const override;
  void wait_patiently() override { patient_ = true; }
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

 private:
  int after(int k) const { return (rank_ + k) % size_; }
  int before(int k) const { return (rank_ + size_ - k) % size_; }

  /// Start a message of at most largest_message_ bytes; none when bytes == 0.
  void start_send(const void* buffer, std::size_t bytes, int to, int tag);
  void start_receive(void* buffer, std::size_t bytes, int from, int tag);
  /// Waits for all that were started.
  void wait_all();

  /// Sends piece `piece` of every other rank's chunk to it and receives theirs of the own chunk into `scratch`.
  void start_scatter(const void* send, std::size_t chunk, std::size_t count, DType type, std::size_t piece,
                     void* scratch);
  /// Adds the own elements and those that start_scatter received, in rank order, into `result`.
  void sum_piece(const void* own, const void* scratch, std::size_t slot_bytes, void* result, std::size_t count,
                 DType type);

  MPI_Comm communicator_;
  const bool owned_;
  const std::size_t largest_message_;
  int rank_ = 0;
  int size_ = 0;
  std::vector<MPI_Request> requests_;  // room for two exchanges with every other rank
  int started_ = 0;
  bool patient_ = false;
  std::vector<const void*> inputs_;  // of a sum, by rank
};

}  // namespace longhaul
