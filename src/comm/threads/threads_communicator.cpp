#include "comm/threads/threads_communicator.h"

#include <utility>

#include "base/error.h"
#include "comm/bytes.h"
#include "comm/members.h"
#include "comm/reduction.h"

namespace longhaul {
// Every data call: publish, enter, read from the others (nothing here may throw), meet, so that no member reuses a
// buffer that another one still reads.

ThreadsCommunicator::ThreadsCommunicator(std::shared_ptr<ThreadsGroup> group, int rank)
    : group_(std::move(group)), rank_(rank), size_(group_->size()), inputs_(static_cast<std::size_t>(size_)) {}

void ThreadsCommunicator::publish(const void* send, void* receive, std::size_t bytes, int to) {
  group_->slot(rank_) = {send, receive, bytes, to};
}

std::unique_ptr<Communicator> ThreadsCommunicator::group(const std::vector<int>& members) {
  const int rank = rank_in_group(members, rank_, size_);
  std::vector<int> world_ranks;
  for (const int member : members) world_ranks.push_back(group_->world_ranks()[static_cast<std::size_t>(member)]);
  const int number = groups_made_[members]++;
  return std::make_unique<ThreadsCommunicator>(group_->world().join({group_->id(), members, number}, world_ranks),
                                               rank);
}

void ThreadsCommunicator::all_to_all(const void* send, void* receive, std::size_t bytes_per_peer) {
  count(Collective::all_to_all, static_cast<std::size_t>(size_ - 1) * bytes_per_peer);
  publish(send, receive);
  group_->enter({Collective::all_to_all, bytes_per_peer});
  for (int k = 0; k < size_; ++k) {
    const int from = peer(k);
    copy_bytes(offset_by(receive, static_cast<std::size_t>(from) * bytes_per_peer),
               offset_by(group_->slot(from).send, static_cast<std::size_t>(rank_) * bytes_per_peer), bytes_per_peer);
  }
  group_->meet();
}

void ThreadsCommunicator::all_gather(const void* send, void* receive, std::size_t bytes_per_rank) {
  count(Collective::all_gather, static_cast<std::size_t>(size_ - 1) * bytes_per_rank);
  publish(send, receive);
  group_->enter({Collective::all_gather, bytes_per_rank});
  // In place: the own block is both `send` and its place in `receive`, and copy leaves it alone.
  for (int k = 0; k < size_; ++k) {
    const int from = peer(k);
    copy_bytes(offset_by(receive, static_cast<std::size_t>(from) * bytes_per_rank), group_->slot(from).send,
               bytes_per_rank);
  }
  group_->meet();
}

void ThreadsCommunicator::reduce_scatter(const void* send, void* receive, std::size_t count_per_rank, DType type,
                                         void*) {
  LONGHAUL_CHECK(is_floating(type), "reduce_scatter takes floating elements, not {}", name_of(type));
  const std::size_t bytes = count_per_rank * size_of(type);
  count(Collective::reduce_scatter, static_cast<std::size_t>(size_ - 1) * bytes);
  publish(send, receive);
  group_->enter({Collective::reduce_scatter, count_per_rank, static_cast<int>(type)});
  // In place: only this rank reads the own block of `send`.
  if (size_ == 1) {
    copy_bytes(receive, send, bytes);
  } else {
    for (int from = 0; from < size_; ++from)
      inputs_[static_cast<std::size_t>(from)] =
          offset_by(group_->slot(from).send, static_cast<std::size_t>(rank_) * bytes);
    sum_in_rank_order(inputs_.data(), size_, receive, count_per_rank, type);
  }
  group_->meet();
}

void ThreadsCommunicator::all_reduce(const void* send, void* receive, std::size_t count_all, DType type, void*) {
  LONGHAUL_CHECK(is_floating(type), "all_reduce takes floating elements, not {}", name_of(type));
  const std::size_t element = size_of(type);
  const std::size_t chunk = reduction_chunk(size_, count_all);
  count(Collective::all_reduce, 2 * static_cast<std::size_t>(size_ - 1) * chunk * element);
  publish(send, receive);
  group_->enter({Collective::all_reduce, count_all, static_cast<int>(type)});
  if (size_ == 1) {
    copy_bytes(receive, send, count_all * element);
    group_->meet();
    return;
  }
  // In place: before the second meeting a rank writes only its own chunk, which no other rank reads.
  const ElementRange own = reduction_range(rank_, chunk, count_all, 0, chunk);
  for (int from = 0; from < size_; ++from)
    inputs_[static_cast<std::size_t>(from)] = offset_by(group_->slot(from).send, own.begin * element);
  sum_in_rank_order(inputs_.data(), size_, offset_by(receive, own.begin * element), own.count, type);
  group_->meet();
  for (int k = 1; k < size_; ++k) {
    const int from = peer(k);
    const ElementRange range = reduction_range(from, chunk, count_all, 0, chunk);
    copy_bytes(offset_by(receive, range.begin * element), offset_by(group_->slot(from).receive, range.begin * element),
               range.count * element);
  }
  group_->meet();
}

void ThreadsCommunicator::broadcast(void* buffer, std::size_t bytes, int root) {
  LONGHAUL_CHECK(root >= 0 && root < size_, "broadcast from rank {} of {}", root, size_);
  count(Collective::broadcast, root == rank_ ? static_cast<std::size_t>(size_ - 1) * bytes : 0);
  publish(buffer, buffer);
  group_->enter({Collective::broadcast, bytes, root});
  copy_bytes(buffer, group_->slot(root).send, bytes);
  group_->meet();
}

void ThreadsCommunicator::send_receive(const void* send, std::size_t send_bytes, int to, void* receive,
                                       std::size_t receive_bytes, int from) {
  check_send_receive(rank_, size_, to, from, send_bytes, receive_bytes);
  count(Collective::send_receive, to == rank_ ? 0 : send_bytes);
  publish(send, receive, send_bytes, to);
  group_->enter({Collective::send_receive});
  const ThreadsSlot& source = group_->slot(from);
  const ThreadsSlot sent = source;
  const bool matches = sent.to == rank_ && sent.bytes == receive_bytes;
  if (matches) copy_bytes(receive, sent.send, receive_bytes);
  group_->meet();
  LONGHAUL_CHECK(matches, "rank {} receives {} bytes from rank {}, which sends {} bytes to rank {}", rank_,
                 receive_bytes, from, sent.bytes, sent.to);
}

void ThreadsCommunicator::barrier() {
  group_->enter({});
}

void ThreadsCommunicator::look() {
  if (group_->world().failed()) group_->world().throw_peer_failure();
}

void ThreadsCommunicator::abort(const std::string& message) noexcept {
  const int world_rank = group_->world_ranks()[static_cast<std::size_t>(rank_)];
  try {
    group_->world().fail({world_rank, message, nullptr, false});
  } catch (...) {  // no memory for the message: the others stop without it
    group_->world().fail({world_rank, {}, nullptr, false});
  }
}

}  // namespace longhaul
