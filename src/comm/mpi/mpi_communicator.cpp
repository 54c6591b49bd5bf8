#include "comm/mpi/mpi_communicator.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "base/error.h"
#include "comm/bytes.h"
#include "comm/members.h"
#include "comm/mpi/abort_job.h"
#include "comm/reduction.h"

namespace longhaul {
namespace {

constexpr int data_tag = 1;
constexpr int gather_tag = 2;  // the second half of an all-reduce, in flight together with the first

}  // namespace

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) length = 0;
  fail("{} failed with code {}: {}", call, code, std::string_view(text, static_cast<std::size_t>(length)));
}

MpiCommunicator::MpiCommunicator(MPI_Comm communicator, bool owned, std::size_t largest_message)
    : communicator_(communicator), owned_(owned), largest_message_(largest_message) {
  check_mpi(MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check_mpi(MPI_Comm_rank(communicator_, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(communicator_, &size_), "MPI_Comm_size");
  requests_.resize(static_cast<std::size_t>(4 * std::max(size_ - 1, 1)), MPI_REQUEST_NULL);
  inputs_.resize(static_cast<std::size_t>(size_));
}

MpiCommunicator::~MpiCommunicator() {
  int finalised = 0;
  MPI_Finalized(&finalised);
  if (owned_ && !finalised) MPI_Comm_free(&communicator_);
}

std::unique_ptr<Communicator> MpiCommunicator::group(const std::vector<int>& members) {
  rank_in_group(members, rank_, size_);
  MPI_Group all = MPI_GROUP_NULL;
  MPI_Group some = MPI_GROUP_NULL;
  MPI_Comm result = MPI_COMM_NULL;
  check_mpi(MPI_Comm_group(communicator_, &all), "MPI_Comm_group");
  check_mpi(MPI_Group_incl(all, static_cast<int>(members.size()), members.data(), &some), "MPI_Group_incl");
  // Not MPI_Comm_split: only the members call.
  check_mpi(MPI_Comm_create_group(communicator_, some, 0, &result), "MPI_Comm_create_group");
  MPI_Group_free(&some);
  MPI_Group_free(&all);
  return std::make_unique<MpiCommunicator>(result, true, largest_message_);
}

void MpiCommunicator::start_send(const void* buffer, std::size_t bytes, int to, int tag) {
  if (bytes == 0) return;
  check_mpi(MPI_Isend(buffer, static_cast<int>(bytes), MPI_BYTE, to, tag, communicator_,
                      &requests_[static_cast<std::size_t>(started_)]),
            "MPI_Isend");
  ++started_;
}

void MpiCommunicator::start_receive(void* buffer, std::size_t bytes, int from, int tag) {
  if (bytes == 0) return;
  check_mpi(MPI_Irecv(buffer, static_cast<int>(bytes), MPI_BYTE, from, tag, communicator_,
                      &requests_[static_cast<std::size_t>(started_)]),
            "MPI_Irecv");
  ++started_;
}

bool MpiCommunicator::concurrent() const {
  int provided = MPI_THREAD_SINGLE;
  check_mpi(MPI_Query_thread(&provided), "MPI_Query_thread");
  return provided == MPI_THREAD_MULTIPLE;
}

void MpiCommunicator::wait_all() {
  const int started = started_;
  started_ = 0;
  if (patient_) {
    using std::chrono::microseconds;
    int done = 0;
    for (int looks = 0;; ++looks) {
      check_mpi(MPI_Testall(started, requests_.data(), &done, MPI_STATUSES_IGNORE), "MPI_Testall");
      if (done) return;
      std::this_thread::sleep_for(microseconds(looks < 20 ? 20 : 100));
    }
  }
  check_mpi(MPI_Waitall(started, requests_.data(), MPI_STATUSES_IGNORE), "MPI_Waitall");
}

void MpiCommunicator::all_to_all(const void* send, void* receive, std::size_t bytes_per_peer) {
  count(Collective::all_to_all, static_cast<std::size_t>(size_ - 1) * bytes_per_peer);
  const auto block = [&](int rank) { return static_cast<std::size_t>(rank) * bytes_per_peer; };
  for (std::size_t offset = 0; offset < bytes_per_peer; offset += largest_message_) {
    const std::size_t bytes = std::min(largest_message_, bytes_per_peer - offset);
    for (int k = 1; k < size_; ++k)
      start_receive(offset_by(receive, block(before(k)) + offset), bytes, before(k), data_tag);
    for (int k = 1; k < size_; ++k) start_send(offset_by(send, block(after(k)) + offset), bytes, after(k), data_tag);
    if (offset == 0) copy_bytes(offset_by(receive, block(rank_)), offset_by(send, block(rank_)), bytes_per_peer);
    wait_all();
  }
}

void MpiCommunicator::all_gather(const void* send, void* receive, std::size_t bytes_per_rank) {
  count(Collective::all_gather, static_cast<std::size_t>(size_ - 1) * bytes_per_rank);
  const auto block = [&](int rank) { return static_cast<std::size_t>(rank) * bytes_per_rank; };
  for (std::size_t offset = 0; offset < bytes_per_rank; offset += largest_message_) {
    const std::size_t bytes = std::min(largest_message_, bytes_per_rank - offset);
    for (int k = 1; k < size_; ++k)
      start_receive(offset_by(receive, block(before(k)) + offset), bytes, before(k), data_tag);
    for (int k = 1; k < size_; ++k) start_send(offset_by(send, offset), bytes, after(k), data_tag);
    if (offset == 0) copy_bytes(offset_by(receive, block(rank_)), send, bytes_per_rank);
    wait_all();
  }
}

void MpiCommunicator::start_scatter(const void* send, std::size_t chunk, std::size_t count_all, DType type,
                                    std::size_t piece, void* scratch) {
  const std::size_t element = size_of(type);
  const std::size_t own = reduction_range(rank_, chunk, count_all, piece, reduction_piece(type)).count;
  for (int k = 1; k < size_; ++k)
    start_receive(offset_by(scratch, reduction_slot(before(k), rank_) * reduction_slot_bytes(chunk, type)),
                  own * element, before(k), data_tag);
  for (int k = 1; k < size_; ++k) {
    const ElementRange range = reduction_range(after(k), chunk, count_all, piece, reduction_piece(type));
    start_send(offset_by(send, range.begin * element), range.count * element, after(k), data_tag);
  }
}

void MpiCommunicator::sum_piece(const void* own, const void* scratch, std::size_t slot, void* result,
                                std::size_t elements, DType type) {
  for (int from = 0; from < size_; ++from)
    inputs_[static_cast<std::size_t>(from)] =
        from == rank_ ? own : offset_by(scratch, reduction_slot(from, rank_) * slot);
  sum_in_rank_order(inputs_.data(), size_, result, elements, type);
}

void MpiCommunicator::reduce_scatter(const void* send, void* receive, std::size_t count_per_rank, DType type,
                                     void* scratch) {
  LONGHAUL_CHECK(is_floating(type), "reduce_scatter takes floating elements, not {}", name_of(type));
  const std::size_t element = size_of(type);
  const std::size_t own_block = static_cast<std::size_t>(rank_) * count_per_rank;
  count(Collective::reduce_scatter, static_cast<std::size_t>(size_ - 1) * count_per_rank * element);
  if (size_ == 1) {
    copy_bytes(receive, send, count_per_rank * element);
    return;
  }
  const std::size_t count_all = static_cast<std::size_t>(size_) * count_per_rank;
  for (std::size_t piece = 0; piece * reduction_piece(type) < count_per_rank; ++piece) {
    start_scatter(send, count_per_rank, count_all, type, piece, scratch);
    wait_all();
    const ElementRange own = reduction_range(rank_, count_per_rank, count_all, piece, reduction_piece(type));
    sum_piece(offset_by(send, own.begin * element), scratch, reduction_slot_bytes(count_per_rank, type),
              offset_by(receive, (own.begin - own_block) * element), own.count, type);
  }
}

void MpiCommunicator::all_reduce(const void* send, void* receive, std::size_t count_all, DType type, void* scratch) {
  LONGHAUL_CHECK(is_floating(type), "all_reduce takes floating elements, not {}", name_of(type));
  const std::size_t element = size_of(type);
  const std::size_t chunk = reduction_chunk(size_, count_all);
  count(Collective::all_reduce, 2 * static_cast<std::size_t>(size_ - 1) * chunk * element);
  if (size_ == 1) {
    copy_bytes(receive, send, count_all * element);
    return;
  }
  // Piece p is gathered while piece p + 1 is scattered. In place: a gather overwrites only pieces of `send` whose
  // messages are complete, and the own sum only elements that no other rank is sent.
  const std::size_t pieces = (chunk + reduction_piece(type) - 1) / reduction_piece(type);
  for (std::size_t step = 0; step <= pieces; ++step) {
    if (step < pieces) start_scatter(send, chunk, count_all, type, step, scratch);
    if (step > 0) {
      const auto range = [&](int rank) {
        return reduction_range(rank, chunk, count_all, step - 1, reduction_piece(type));
      };
      for (int k = 1; k < size_; ++k) {
        const ElementRange theirs = range(before(k));
        start_receive(offset_by(receive, theirs.begin * element), theirs.count * element, before(k), gather_tag);
      }
      const ElementRange own = range(rank_);
      for (int k = 1; k < size_; ++k)
        start_send(offset_by(receive, own.begin * element), own.count * element, after(k), gather_tag);
    }
    wait_all();
    if (step < pieces) {
      const ElementRange own = reduction_range(rank_, chunk, count_all, step, reduction_piece(type));
      sum_piece(offset_by(send, own.begin * element), scratch, reduction_slot_bytes(chunk, type),
                offset_by(receive, own.begin * element), own.count, type);
    }
  }
}

void MpiCommunicator::broadcast(void* buffer, std::size_t bytes, int root) {
  LONGHAUL_CHECK(root >= 0 && root < size_, "broadcast from rank {} of {}", root, size_);
  count(Collective::broadcast, root == rank_ ? static_cast<std::size_t>(size_ - 1) * bytes : 0);
  for (std::size_t offset = 0; offset < bytes; offset += largest_message_)
    check_mpi(MPI_Bcast(offset_by(buffer, offset), static_cast<int>(std::min(largest_message_, bytes - offset)),
                        MPI_BYTE, root, communicator_),
              "MPI_Bcast");
}

void MpiCommunicator::send_receive(const void* send, std::size_t send_bytes, int to, void* receive,
                                   std::size_t receive_bytes, int from) {
  check_send_receive(rank_, size_, to, from, send_bytes, receive_bytes);
  count(Collective::send_receive, to == rank_ ? 0 : send_bytes);
  if (to == rank_) {
    copy_bytes(receive, send, send_bytes);
    return;
  }
  for (std::size_t offset = 0; offset < std::max(send_bytes, receive_bytes); offset += largest_message_) {
    if (offset < receive_bytes)
      start_receive(offset_by(receive, offset), std::min(largest_message_, receive_bytes - offset), from, data_tag);
    if (offset < send_bytes)
      start_send(offset_by(send, offset), std::min(largest_message_, send_bytes - offset), to, data_tag);
    wait_all();
  }
}

void MpiCommunicator::barrier() {
  check_mpi(MPI_Barrier(communicator_), "MPI_Barrier");
}

void MpiCommunicator::abort(const std::string& message) noexcept {
  abort_job(message.c_str());
}

}  // namespace longhaul
