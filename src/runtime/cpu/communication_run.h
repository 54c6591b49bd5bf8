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

/// The same in three parts, with other work in between: into the scratch and out of it by the rank's threads, the
/// exchange by any thread. Until the exchange is over nobody may write operands or scratch, or touch results. What the
/// exchange leaves in the scratch goes to results where `unpack` is told, otherwise it is in `results` of the exchange.
/// Not for a slice.
void pack_communication(const CommunicationStep& step, std::span<const void* const> operands, void* scratch,
                        ThreadPool& pool);
void exchange_communication(const CommunicationStep& step, Communicator* group, std::span<const void* const> operands,
                            std::span<void* const> results, void* scratch, CommunicationTimes* times = nullptr);
void unpack_communication(const CommunicationStep& step, std::span<void* const> results, void* scratch,
                          ThreadPool& pool);

}  // namespace longhaul
