// Which library computes each matrix product of a run: settled before its session is made, the same on all ranks.
#pragma once
#include <string>

#include "comm/communicator.h"
#include "run/setup.h"

namespace longhaul {

/// Settles the libraries of setup.target as training.matmul, and training.deterministic where that is auto, say:
/// products in `decided` (what target.libraries() gave for the checkpoint that is resumed; empty: none) keep their
/// library, the others are decided on rank 0, by timing them when the key asks for that, and told to all. `model` is
/// setup.request compiled. Returns what a user should know. Collective; throws Error for a library that this build
/// lacks, or a garbled `decided`, naming `source`, the checkpoint that it is from.
std::string choose_libraries(Communicator& world, const RunSetup& setup, const CompiledModel& model,
                             const std::string& decided, const std::string& source);

}  // namespace longhaul
