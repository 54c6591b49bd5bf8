#include "run/attention_balance.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "plan/mesh.h"

namespace longhaul {

AttentionImbalance attention_imbalance(TokenPlacement& placement, SequenceLoader& loader,
                                       std::span<const std::int64_t> samples, std::int64_t rows) {
  double busiest = 0, path = 0, mean = 0;
  for (std::size_t first = 0; first < samples.size(); first += static_cast<std::size_t>(rows)) {
    const auto of = [&](std::size_t row) {
      return placement.shares(loader.document_starts(samples[first + row]), loader.length());
    };
    AttentionShares together = of(0);
    for (std::size_t row = 1; row < static_cast<std::size_t>(rows); ++row) together += of(row);
    busiest += together.busiest();
    path += together.path();
    mean += together.mean();
  }
  return {busiest / mean, path / mean};
}

std::string describe_imbalance(const RunSetup& setup, SequenceLoader& loader, std::span<const std::int64_t> samples) {
  std::string work, path;  // of the other orders
  AttentionImbalance own;
  std::string own_name;
  bool steps = false;
  for (const TokenOrder order : token_orders) {
    const std::string_view name = name_of(order);
    ResolvedParallelism parallel = setup.parallel;
    parallel.token_order = order;
    Placement axes;
    const Mesh mesh = place_ranks(parallel, axes);
    TokenPlacement placement(mesh, axes, padded_sequence(parallel, setup.sequence), attention_layers(setup.model.spec));
    if (placement.holders() == 1) return "";
    const auto imbalance = attention_imbalance(placement, loader, samples, setup.experiment.training.micro_batch_size);
    steps |= imbalance.path > imbalance.work * (1 + 1e-9);
    if (order == setup.parallel.token_order) {
      own = imbalance;
      own_name = name;
      continue;
    }
    work += fmt::format("{}{} {:.3f}", work.empty() ? "" : ", ", name, imbalance.work);
    path += fmt::format("{}{} {:.3f}", path.empty() ? "" : ", ", name, imbalance.path);
  }
  std::string text = fmt::format("busiest rank / mean: {:.3f} in {} order ({})", own.work, own_name, work);
  if (steps) text += fmt::format("; with the busiest of every step: {:.3f} ({})", own.path, path);
  return text;
}

}  // namespace longhaul
