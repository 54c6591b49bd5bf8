#include "run/evaluation.h"

#include <algorithm>

namespace longhaul {

ValidationResult evaluate_source(Session& session, const RunSetup& setup, const DataSource& set) {
  const std::int64_t available = set.sampler->samples(), rows = session.rows(), batch = rows * session.data_ranks(),
                     steps = setup.experiment.validation.steps;
  const std::int64_t wanted = std::min(available, steps > 0 ? steps * setup.parallel.global_batch_size : available);
  double loss = 0;
  ValidationResult result;
  result.name = set.group.name;
  PositionLosses positions(setup.sequence);
  std::vector<std::int64_t> samples(static_cast<std::size_t>(rows));
  for (std::int64_t begin = 0; begin < wanted; begin += batch) {
    for (std::int64_t r = 0; r < rows; ++r)
      samples[static_cast<std::size_t>(r)] = std::min(begin + session.data_rank() * rows + r, wanted - 1);
    fill_rows(*set.loader, session, samples);
    for (std::int64_t r = 0; r < rows; ++r)  // rows past the end repeat the last sample, and do not count
      if (begin + session.data_rank() * rows + r >= wanted)
        std::fill_n(session.micro_batch().labels.begin() + r * session.slots(), session.slots(), ignored_label);
    const auto [sum, count] = session.evaluate();
    loss += sum;
    result.labels += count;
    positions.add(session);
  }
  result.by_position = positions.of_all(session.world());
  if (result.labels > 0) result.loss = loss / result.labels;
  return result;
}

}  // namespace longhaul
