#include "comm/exchange.h"

#include <algorithm>
#include <cstdint>

#include "comm/rank_message.h"

namespace longhaul {

std::vector<std::string> gather_texts(Communicator& world, std::string_view mine) {
  const auto lengths = all_gather(world, static_cast<std::uint64_t>(mine.size()));
  // One all_gather has equal blocks: all are as long as the longest.
  std::vector<char> padded(*std::max_element(lengths.begin(), lengths.end()));
  std::copy(mine.begin(), mine.end(), padded.begin());
  const std::vector<char> all = all_gather(world, padded);
  std::vector<std::string> texts;
  for (std::size_t rank = 0; rank < lengths.size(); ++rank)
    texts.emplace_back(all.data() + rank * padded.size(), lengths[rank]);
  return texts;
}

std::string broadcast_text(Communicator& world, std::string text, int root) {
  text.resize(broadcast(world, static_cast<std::uint64_t>(text.size()), root));
  if (!text.empty()) world.broadcast(text.data(), text.size(), root);
  return text;
}

void agree(Communicator& world, const std::string& failure) {
  const auto lengths = all_gather(world, static_cast<std::uint64_t>(failure.size()));
  for (int rank = 0; rank < world.size(); ++rank) {
    if (lengths[static_cast<std::size_t>(rank)] == 0) continue;
    const std::string message = with_rank(rank, broadcast_text(world, failure, rank));
    // Only the named rank is the failure; launchers report it once, from there.
    if (rank == world.rank()) throw Error(message);
    throw PeerFailure(message);
  }
}

}  // namespace longhaul
