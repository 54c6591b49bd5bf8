#include "plan/mesh.h"

#include "base/error.h"

namespace longhaul {

Mesh place_ranks(const ResolvedParallelism& parallel, CompileOptions& options) {
  options.zero_stage = static_cast<int>(parallel.zero_stage);
  options.batch_axes = {"dp"};
  options.sequence_axes = {"ring", "ulysses"};
  return Mesh({{"dp", static_cast<int>(parallel.data)}, {"ring", 1}, {"ulysses", static_cast<int>(parallel.sequence)}});
}

std::int64_t padded_sequence(const ResolvedParallelism& parallel, std::int64_t sequence) {
  return (sequence + parallel.sequence - 1) / parallel.sequence * parallel.sequence;
}

std::vector<std::int32_t> token_order(const Mesh& mesh, const CompileOptions& options, std::int64_t sequence,
                                      int rank) {
  AxisList all, outer;
  for (const auto& name : options.sequence_axes) {
    const int axis = mesh.find(name);
    if (axis < 0 || mesh.size(axis) == 1) continue;
    all.push_back(axis);
    if (name != "ulysses") outer.push_back(axis);
  }
  const std::int64_t slots = sequence / mesh.count(all), first = mesh.index(all, rank) * slots;
  const std::int64_t n = mesh.count(outer), chunk = sequence / (2 * n), i = mesh.index(outer, rank);
  std::vector<std::int32_t> order;
  for (std::int64_t slot = first; slot < first + slots; ++slot) {
    std::int64_t index = slot;
    if (options.token_order != TokenOrder::contiguous) {
      const std::int64_t within = slot - i * 2 * chunk;  // place among the outer rank's two chunks
      index = within < chunk ? i * chunk + within : (2 * n - 1 - i) * chunk + within - chunk;
    }
    order.push_back(static_cast<std::int32_t>(index));
  }
  return order;
}

std::string describe(const ResolvedParallelism& parallel) {
  return fmt::format("{} ranks = data {} x sequence {}, zero_stage {}", parallel.data * parallel.sequence,
                     parallel.data, parallel.sequence, parallel.zero_stage);
}

}  // namespace longhaul
