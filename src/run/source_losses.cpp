#include "run/source_losses.h"

#include "comm/exchange.h"

namespace longhaul {

void SourceLosses::add(Session& session, const std::vector<std::int64_t>& samples, std::int64_t micro_batch) {
  session.token_losses(room_);
  const HostBatch& batch = session.micro_batch();
  const std::int64_t rows = session.rows(), slots = session.slots();
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t number = (micro_batch * session.data_ranks() + session.data_rank()) * rows + row;
    const std::size_t source = source_.mixed->source_of(samples[static_cast<std::size_t>(number)]);
    for (auto i = static_cast<std::size_t>(row * slots); i < static_cast<std::size_t>((row + 1) * slots); ++i) {
      if (batch.labels[i] < 0) continue;
      sums_[2 * source] += room_[i];
      ++sums_[2 * source + 1];
    }
  }
}

std::vector<SourceLoss> SourceLosses::of_all(Communicator& world) const {
  std::vector<SourceLoss> losses;
  for (const DataSource& part : source_.parts) losses.push_back({part.group.name});
  const std::vector<double> all = all_gather(world, sums_);
  for (std::size_t i = 0; i < all.size(); ++i) {
    SourceLoss& one = losses[i % sums_.size() / 2];
    (i % 2 == 0 ? one.sum : one.labels) += all[i];
  }
  return losses;
}

}  // namespace longhaul
