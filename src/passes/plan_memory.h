// plan_memory: a static offset for every buffer, so that the peak is known before the first step and nothing is
// allocated during one.
#pragma once
#include <string>
#include <vector>

#include "ir/memory_plan.h"

namespace longhaul {

/// Places what several programs share: every named input and output. A gradient and its accumulator share one buffer
/// when they are equally large.
NamedBuffers plan_named_buffers(const std::vector<const Graph*>& programs);

/// Places one program's values above the named buffers. Values may take the buffer of an operand that dies there where
/// the op allows it; state is updated in place when its old value is no longer read. Buffers are placed in order of
/// definition, best fit; where that takes more than the most that is live at once, also in other
/// orders (the largest first, the longest-lived first, ...), and the best of these plans is kept. Throws
/// std::logic_error when verify_plan finds fault with the plan.
MemoryPlan plan_memory(const Graph& graph, const NamedBuffers& named, const ScratchBytes& scratch);

/// Between what a plan's transient_bytes lie, without making it: what is live at once at the most, and what buffers
/// take that are placed in order of definition.
struct MemoryBounds {
  std::int64_t least = 0, most = 0;
};
MemoryBounds memory_bounds(const Graph& graph, const NamedBuffers& named, const ScratchBytes& scratch);

/// What is wrong with a plan, op and values named; "" when nothing is. Every buffer is aligned and inside the arena,
/// and nothing is written over what is still to be read: neither values, named buffers included, nor the scratch of an
/// op over what lives during it. A result may lie where an operand lay only when the op's definition declares it, reads
/// the operand nowhere else, and nobody reads it later. In the end every output is in the buffer of its name.
std::string verify_plan(const Graph& graph, const NamedBuffers& named, const MemoryPlan& plan);

}  // namespace longhaul
