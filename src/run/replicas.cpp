#include "run/replicas.h"

#include <fmt/ranges.h>
#include <xxhash.h>

#include <cmath>
#include <cstring>
#include <map>

#include "base/error.h"
#include "comm/exchange.h"

namespace longhaul {
namespace {

bool is_master(Role role) {
  return role == Role::parameter || is_moment(role);
}
bool outlives_step(Role role) {
  return is_master(role) || role == Role::compute_parameter;
}

std::string ranks_text(const std::vector<int>& ranks) {
  return fmt::format("rank{} {}", ranks.size() == 1 ? "" : "s", fmt::join(ranks, ", "));
}

// Of the ranks that hold one part: which of them differ. Empty: none.
std::string difference(const std::map<std::uint64_t, std::vector<int>>& ranks_by_hash) {
  if (ranks_by_hash.size() < 2) return "";
  std::size_t most = 0, total = 0;
  for (const auto& [hash, ranks] : ranks_by_hash) {
    most = std::max(most, ranks.size());
    total += ranks.size();
  }
  std::string groups, odd, others;
  for (const auto& [hash, ranks] : ranks_by_hash) {
    groups += (groups.empty() ? "" : " against ") + ranks_text(ranks);
    (ranks.size() == most ? others : odd) +=
        ((ranks.size() == most ? others : odd).empty() ? "" : ", ") + ranks_text(ranks);
  }
  return 2 * most > total ? odd + " against " + others : groups;
}

std::uint64_t hash_of(Session& session, const StateTensor& tensor, std::vector<std::byte>& room) {
  const auto bytes = session.elements(tensor, tensor.begin, tensor.end, room);
  return XXH3_64bits(bytes.data(), bytes.size());
}

// The first element of a compute copy that is not its master's rounding; "" when all are, as far as this rank has both.
std::string first_wrong_copy(Session& session) {
  std::vector<std::byte> copy_room, master_room;
  for (const auto& copy : session.state()) {
    if (copy.key.role != Role::compute_parameter) continue;
    const StateTensor& master = session.state(copy.key.parameter);
    const std::int64_t begin = std::max(copy.begin, master.begin), end = std::min(copy.end, master.end);
    if (begin >= end) continue;
    const auto copy_bytes = session.elements(copy, begin, end, copy_room),
               master_bytes = session.elements(master, begin, end, master_room);
    std::string wrong;
    dispatch_floating(copy.dtype, [&](auto low) {
      using Low = decltype(low);
      dispatch_floating(master.dtype, [&](auto high) {
        using High = decltype(high);
        if constexpr (sizeof(High) >= sizeof(Low)) {
          const auto* copies = reinterpret_cast<const Low*>(copy_bytes.data());
          const auto* masters = reinterpret_cast<const High*>(master_bytes.data());
          for (std::int64_t i = begin; i < end && wrong.empty(); ++i) {
            const Low rounded = static_cast<Low>(static_cast<accumulate_t<High>>(masters[i - begin]));
            if (std::memcmp(&rounded, &copies[i - begin], sizeof rounded) != 0)
              wrong = fmt::format("{}: element {} is {}, but its master in {} is {}", copy.name, i,
                                  static_cast<double>(static_cast<accumulate_t<Low>>(copies[i - begin])), master.name,
                                  static_cast<double>(static_cast<accumulate_t<High>>(masters[i - begin])));
          }
        }
      });
    });
    if (!wrong.empty()) return wrong;
  }
  return "";
}

}  // namespace

void verify_replicas(Session& session) {
  Communicator& world = session.world();
  std::vector<std::uint64_t> hashes;
  std::vector<std::byte> room;
  for (const auto& tensor : session.state())
    if (outlives_step(tensor.key.role)) hashes.push_back(hash_of(session, tensor, room));
  if (world.size() > 1) {
    const std::vector<std::uint64_t> all = all_gather(world, hashes);
    std::string failure;
    std::size_t place = 0;
    for (const auto& tensor : session.state()) {
      if (!outlives_step(tensor.key.role)) continue;
      std::map<int, std::map<std::uint64_t, std::vector<int>>> parts;
      for (int rank = 0; rank < world.size(); ++rank)
        parts[session.part_of(tensor, rank)][all[static_cast<std::size_t>(rank) * hashes.size() + place]].push_back(
            rank);
      for (const auto& [part, ranks] : parts)
        if (const std::string found = difference(ranks); failure.empty() && !found.empty())
          failure = fmt::format("copies of {} differ between ranks: {}", tensor.name, found);
      ++place;
    }
    // All ranks know the same; rank 0 says it.
    agree(world, failure.empty() || world.rank() != 0
                     ? ""
                     : failure +
                           ". A processor, memory or network has changed bits, or ranks compute differently: the "
                           "run stops before it saves them");
  }
  agree(world, first_wrong_copy(session));
}

void require_finite_state(Session& session) {
  std::string failure;
  std::vector<std::byte> room;
  for (const auto& tensor : session.state()) {
    if (!is_master(tensor.key.role) || !failure.empty()) continue;
    if (!is_floating(tensor.dtype)) continue;  // codes; their scales tell
    const auto own = session.elements(tensor, tensor.begin, tensor.end, room);
    dispatch_floating(tensor.dtype, [&](auto zero) {
      using T = decltype(zero);
      const T* values = reinterpret_cast<const T*>(own.data());
      for (std::int64_t i = 0; i < tensor.end - tensor.begin; ++i)
        if (!std::isfinite(static_cast<accumulate_t<T>>(values[i]))) {
          failure = fmt::format("{}: element {} is {}; nothing is saved of a state that is not finite", tensor.name,
                                tensor.begin + i, static_cast<double>(static_cast<accumulate_t<T>>(values[i])));
          return;
        }
    });
  }
  agree(session.world(), failure);
}

}  // namespace longhaul
