// parallelism.overlap: whether collectives run beside computation, and what that is predicted to gain.
#pragma once
#include "run/setup.h"

namespace longhaul {

/// Settles Schedule::overlap_memory of a run whose memory is settled otherwise, and says why among its decisions.
/// Throws Error as compile_model does.
void resolve_overlap(RunSetup& setup);

}  // namespace longhaul
