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

std::string describe(const ResolvedParallelism& parallel) {
  return fmt::format("{} ranks = data {} x sequence {}, zero_stage {}", parallel.data * parallel.sequence,
                     parallel.data, parallel.sequence, parallel.zero_stage);
}

}  // namespace longhaul
