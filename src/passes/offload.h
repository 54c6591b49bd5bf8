// Which values could wait for the backward pass in host memory.
#pragma once
#include <cstdint>
#include <vector>

#include "ir/graph.h"

namespace longhaul {

/// A value that the forward pass makes and the backward pass reads, so that it is kept in between.
struct OffloadCandidate {
  ValueId value = no_value;
  std::int64_t bytes = 0;       ///< of a rank, as a buffer
  std::int32_t last_used = -1;  ///< op of the forward pass that reads it last, or makes it when none reads it
  std::int32_t needed = -1;     ///< op of the backward pass that reads it first
};

/// Those of a scheduled program, in the order in which they go: what the backward pass needs last first, for it is kept
/// longest; of what one op needs the largest first. Not among them: inputs and outputs, parameters that were gathered,
/// scalars.
std::vector<OffloadCandidate> offload_candidates(const Graph& graph);

}  // namespace longhaul
