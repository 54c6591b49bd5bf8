#include "comm/communicator.h"

#include "base/error.h"
#include "comm/rank_message.h"

namespace longhaul {

std::string_view name_of(Collective kind) {
  switch (kind) {
    case Collective::all_to_all:
      return "all_to_all";
    case Collective::all_gather:
      return "all_gather";
    case Collective::reduce_scatter:
      return "reduce_scatter";
    case Collective::all_reduce:
      return "all_reduce";
    case Collective::broadcast:
      return "broadcast";
    case Collective::send_receive:
      return "send_receive";
    case Collective::count_:
      break;
  }
  return "barrier";
}

std::string with_rank(int rank, const std::string& message) {
  const std::string prefix = fmt::format("rank {}: ", rank);
  return message.starts_with(prefix) ? message : prefix + message;
}

void agree(Communicator& communicator, const std::string& failure) {
  std::vector<std::uint64_t> lengths(static_cast<std::size_t>(communicator.size()));
  const std::uint64_t length = failure.size();
  communicator.all_gather(&length, lengths.data(), sizeof(length));
  for (int rank = 0; rank < communicator.size(); ++rank) {
    if (lengths[static_cast<std::size_t>(rank)] == 0) continue;
    std::string message = failure;
    message.resize(lengths[static_cast<std::size_t>(rank)]);
    communicator.broadcast(message.data(), message.size(), rank);
    message = with_rank(rank, message);
    // Only the named rank is the failure; launchers report it once, from there.
    if (rank == communicator.rank()) throw Error(message);
    throw PeerFailure(message);
  }
}

}  // namespace longhaul
