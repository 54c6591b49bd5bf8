// A step computed twice: what memory or a processor changes silently is seen where no other rank holds a copy.
#pragma once
#include <cstdint>
#include <functional>

#include "run/session.h"

namespace longhaul {

/// After accumulate(micro_batches, fill) gave `first`: does it again, and throws Error on every rank, naming step,
/// tensors, rank and host, when loss, labels or the gradients that a rank holds are not the same bits. Gradients are
/// then as accumulate left them. Collective.
void compute_again(Session& session, std::int64_t step, const StepResult& first, std::int64_t micro_batches,
                   const std::function<void(std::int64_t)>& fill);

}  // namespace longhaul
