#include "comm/members.h"

#include <fmt/ranges.h>

#include "base/error.h"

namespace longhaul {

int rank_in_group(const std::vector<int>& members, int rank, int size) {
  int place = -1;
  std::vector<bool> seen(static_cast<std::size_t>(size), false);
  for (std::size_t i = 0; i < members.size(); ++i) {
    const int member = members[i];
    LONGHAUL_CHECK(member >= 0 && member < size, "group {} names rank {} of {}", members, member, size);
    LONGHAUL_CHECK(!seen[static_cast<std::size_t>(member)], "group {} names rank {} twice", members, member);
    seen[static_cast<std::size_t>(member)] = true;
    if (member == rank) place = static_cast<int>(i);
  }
  LONGHAUL_CHECK(place >= 0, "group {} does not hold rank {}, which makes it", members, rank);
  return place;
}

void check_send_receive(int rank, int size, int to, int from, std::size_t send_bytes, std::size_t receive_bytes) {
  LONGHAUL_CHECK(to >= 0 && to < size && from >= 0 && from < size, "send to rank {}, receive from rank {}, of {}", to,
                 from, size);
  LONGHAUL_CHECK((to == rank) == (from == rank), "rank {} sends to rank {} but receives from rank {}", rank, to, from);
  LONGHAUL_CHECK(to != rank || send_bytes == receive_bytes, "rank {} sends itself {} bytes and receives {}", rank,
                 send_bytes, receive_bytes);
}

}  // namespace longhaul
