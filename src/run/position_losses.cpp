#include "run/position_losses.h"

#include <bit>

#include "base/error.h"
#include "comm/exchange.h"

namespace longhaul {

PositionLosses::PositionLosses(std::int64_t sequence) {
  for (std::int64_t first = 1; first <= sequence; first *= 2) buckets_.push_back({first});
}

void PositionLosses::add(Session& session) {
  session.token_losses(room_);
  const HostBatch& batch = session.micro_batch();
  LONGHAUL_CHECK(room_.size() == batch.labels.size(), "{} losses of {} labels", room_.size(), batch.labels.size());
  for (std::size_t i = 0; i < room_.size(); ++i) {
    if (batch.labels[i] < 0) continue;
    // The label follows the token at `position`: that one and all before it are its context.
    const auto context = static_cast<std::uint64_t>(batch.position[i]) + 1;
    PositionLoss& bucket = buckets_[static_cast<std::size_t>(std::bit_width(context) - 1)];
    bucket.sum += room_[i];
    ++bucket.labels;
  }
}

std::vector<PositionLoss> PositionLosses::of_all(Communicator& world) const {
  std::vector<PositionLoss> sums = buckets_;
  for (PositionLoss& one : sums) one.sum = one.labels = 0;
  const std::vector<PositionLoss> all = all_gather(world, buckets_);
  for (std::size_t i = 0; i < all.size(); ++i) {
    sums[i % sums.size()].sum += all[i].sum;
    sums[i % sums.size()].labels += all[i].labels;
  }
  std::erase_if(sums, [](const PositionLoss& one) { return one.labels == 0; });
  return sums;
}

}  // namespace longhaul
