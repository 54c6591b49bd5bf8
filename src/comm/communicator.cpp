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

}  // namespace longhaul
