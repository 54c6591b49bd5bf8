// plan_memory: a static offset for every buffer, so that the peak is known before the first step and nothing is
// allocated during one.
#pragma once
#include <vector>

#include "ir/memory_plan.h"

namespace longhaul {

/// Places what several programs share: every named input and output. A gradient and its accumulator share one buffer
/// when they are equally large.
NamedBuffers plan_named_buffers(const std::vector<const Graph*>& programs);

/// Places one program's values above the named buffers. Values are placed in order of definition, best fit, and may
/// take the buffer of an operand that dies there where the op allows it; state is updated in place when its old value
/// is no longer read.
MemoryPlan plan_memory(const Graph& graph, const NamedBuffers& named, const ScratchBytes& scratch);

}  // namespace longhaul
