#include "comm/sockets/sockets_communicator.h"

#include <xxhash.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "comm/bytes.h"
#include "comm/members.h"
#include "comm/rank_message.h"
#include "comm/reduction.h"

namespace longhaul {
SocketsCommunicator::SocketsCommunicator(std::shared_ptr<sockets::Mesh> mesh, std::vector<int> members)
    : mesh_(std::move(mesh)), members_(std::move(members)), inputs_(members_.size()) {
  rank_ = rank_in_group(members_, mesh_->rank(), mesh_->size());
  group_ = XXH32(members_.data(), members_.size() * sizeof(int), 0);
}

std::unique_ptr<Communicator> SocketsCommunicator::group(const std::vector<int>& members) {
  rank_in_group(members, rank_, size());
  std::vector<int> world;
  for (const int member : members) world.push_back(members_[static_cast<std::size_t>(member)]);
  return std::make_unique<SocketsCommunicator>(mesh_, std::move(world));
}

void SocketsCommunicator::all_to_all(const void* send, void* receive, std::size_t bytes_per_peer) {
  count(Collective::all_to_all, static_cast<std::size_t>(size() - 1) * bytes_per_peer);
  for (int rank = 0; rank < size(); ++rank) {
    const std::size_t block = static_cast<std::size_t>(rank) * bytes_per_peer;
    if (rank == rank_)
      copy_bytes(offset_by(receive, block), offset_by(send, block), bytes_per_peer);
    else if (bytes_per_peer > 0)
      with(rank) = {offset_by(send, block), bytes_per_peer, offset_by(receive, block), bytes_per_peer};
  }
  exchange("all_to_all");
}

void SocketsCommunicator::all_gather(const void* send, void* receive, std::size_t bytes_per_rank) {
  count(Collective::all_gather, static_cast<std::size_t>(size() - 1) * bytes_per_rank);
  for (int rank = 0; rank < size(); ++rank) {
    const auto to = offset_by(receive, static_cast<std::size_t>(rank) * bytes_per_rank);
    if (rank == rank_)
      copy_bytes(to, send, bytes_per_rank);
    else if (bytes_per_rank > 0)
      with(rank) = {send, bytes_per_rank, to, bytes_per_rank};
  }
  exchange("all_gather");
}

void SocketsCommunicator::sum_piece(const void* send, std::size_t chunk, std::size_t count_all, DType type,
                                    std::size_t piece, void* scratch, void* result, const char* what) {
  const std::size_t element = size_of(type), slot = reduction_slot_bytes(chunk, type);
  const auto range = [&](int rank) { return reduction_range(rank, chunk, count_all, piece, reduction_piece(type)); };
  const ElementRange own = range(rank_);
  for (int rank = 0; rank < size(); ++rank) {
    if (rank == rank_) {
      inputs_[static_cast<std::size_t>(rank)] = offset_by(send, own.begin * element);
      continue;
    }
    const ElementRange theirs = range(rank);
    void* from = offset_by(scratch, reduction_slot(rank, rank_) * slot);
    inputs_[static_cast<std::size_t>(rank)] = from;
    sockets::Message& message = with(rank);
    if (theirs.count > 0) {
      message.send = offset_by(send, theirs.begin * element);
      message.send_bytes = theirs.count * element;
    }
    if (own.count > 0) {
      message.receive = from;
      message.receive_bytes = own.count * element;
    }
  }
  exchange(what);
  sum_in_rank_order(inputs_.data(), size(), result, own.count, type);
}

void SocketsCommunicator::reduce_scatter(const void* send, void* receive, std::size_t count_per_rank, DType type,
                                         void* scratch) {
  LONGHAUL_CHECK(is_floating(type), "reduce_scatter takes floating elements, not {}", name_of(type));
  const std::size_t element = size_of(type);
  count(Collective::reduce_scatter, static_cast<std::size_t>(size() - 1) * count_per_rank * element);
  if (size() == 1) {
    copy_bytes(receive, send, count_per_rank * element);
    return;
  }
  const std::size_t count_all = static_cast<std::size_t>(size()) * count_per_rank;
  for (std::size_t piece = 0; piece * reduction_piece(type) < count_per_rank; ++piece)
    sum_piece(send, count_per_rank, count_all, type, piece, scratch,
              offset_by(receive, piece * reduction_piece(type) * element), "reduce_scatter");
}

void SocketsCommunicator::all_reduce(const void* send, void* receive, std::size_t count_all, DType type,
                                     void* scratch) {
  LONGHAUL_CHECK(is_floating(type), "all_reduce takes floating elements, not {}", name_of(type));
  const std::size_t element = size_of(type);
  const std::size_t chunk = reduction_chunk(size(), count_all);
  count(Collective::all_reduce, 2 * static_cast<std::size_t>(size() - 1) * chunk * element);
  if (size() == 1) {
    copy_bytes(receive, send, count_all * element);
    return;
  }
  // In place: a gather overwrites only pieces of `send` that were sent, and the own sum only what no other rank is
  // sent.
  for (std::size_t piece = 0; piece * reduction_piece(type) < chunk; ++piece) {
    const auto range = [&](int rank) { return reduction_range(rank, chunk, count_all, piece, reduction_piece(type)); };
    const ElementRange own = range(rank_);
    void* sum = offset_by(receive, own.begin * element);
    sum_piece(send, chunk, count_all, type, piece, scratch, sum, "all_reduce");
    for (int rank = 0; rank < size(); ++rank) {
      if (rank == rank_) continue;
      const ElementRange theirs = range(rank);
      sockets::Message& message = with(rank);
      if (own.count > 0) {
        message.send = sum;
        message.send_bytes = own.count * element;
      }
      if (theirs.count > 0) {
        message.receive = offset_by(receive, theirs.begin * element);
        message.receive_bytes = theirs.count * element;
      }
    }
    exchange("all_reduce");
  }
}

void SocketsCommunicator::broadcast(void* buffer, std::size_t bytes, int root) {
  LONGHAUL_CHECK(root >= 0 && root < size(), "broadcast from rank {} of {}", root, size());
  count(Collective::broadcast, root == rank_ ? static_cast<std::size_t>(size() - 1) * bytes : 0);
  if (bytes == 0) return;
  if (rank_ != root) {
    with(root).receive = buffer;
    with(root).receive_bytes = bytes;
  } else {
    for (int rank = 0; rank < size(); ++rank) {
      if (rank == root) continue;
      with(rank).send = buffer;
      with(rank).send_bytes = bytes;
    }
  }
  exchange("broadcast");
}

void SocketsCommunicator::send_receive(const void* send, std::size_t send_bytes, int to, void* receive,
                                       std::size_t receive_bytes, int from) {
  check_send_receive(rank_, size(), to, from, send_bytes, receive_bytes);
  count(Collective::send_receive, to == rank_ ? 0 : send_bytes);
  if (to == rank_) {
    copy_bytes(receive, send, send_bytes);
    return;
  }
  if (send_bytes > 0) {
    with(to).send = send;
    with(to).send_bytes = send_bytes;
  }
  if (receive_bytes > 0) {
    with(from).receive = receive;
    with(from).receive_bytes = receive_bytes;
  }
  exchange("send_receive");
}

void SocketsCommunicator::barrier() {
  // Rounds of doubling distance: after each a rank knows of twice as many.
  for (int distance = 1; distance < size(); distance *= 2) {
    with((rank_ + distance) % size()).send = this;
    with((rank_ + size() - distance) % size()).receive = this;
    exchange("barrier");
  }
}

void SocketsCommunicator::abort(const std::string& message) noexcept {
  try {
    mesh_->abort(with_rank(mesh_->rank(), message));
  } catch (const std::exception&) {
    mesh_->abort("");
  }
}

}  // namespace longhaul
