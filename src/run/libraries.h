// Which library computes each matrix product of a run: settled before its session is made, the same on all ranks.
#pragma once
#include <memory>
#include <string>

#include "comm/communicator.h"
#include "run/setup.h"

namespace longhaul {

/// Sets setup.request.libraries as training.matmul, and training.deterministic where that is auto, say: products in
/// `decided` (an earlier choices_text, of the checkpoint that is resumed; empty: none) keep their library, the others
/// are decided on rank 0, by timing both when the key asks for that, and told to all. `model` is setup.request
/// compiled. Returns what a user should know. Collective; throws Error for a library that this build lacks, or a
/// garbled `decided`.
std::string choose_libraries(Communicator& world, RunSetup& setup, const CompiledModel& model,
                             const std::string& decided);

/// The choices as JSON: every product and its library.
std::string choices_text(const RunSetup& setup);

}  // namespace longhaul
