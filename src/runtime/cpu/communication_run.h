// A CommunicationStep carried out by the CPU: packed and unpacked by the rank's threads, sent by its communicator.
#pragma once
#include <span>

#include "runtime/communication.h"

namespace longhaul {

class ThreadPool;

/// Runs on the group of step.axes; `group` may be null for a slice. One operand and result a tensor; `scratch` has
/// step.scratch_bytes(), on a cache line. With `times`, which all ranks of the group must ask for together, the ranks
/// first wait for one another; seconds are added to it.
void run_communication(const CommunicationStep& step, Communicator* group, std::span<const void* const> operands,
                       std::span<void* const> results, void* scratch, ThreadPool& pool,
                       CommunicationTimes* times = nullptr);

}  // namespace longhaul
