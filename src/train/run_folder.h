// The run folder at a start: made, locked for this run, and looked through for the checkpoint to go on from.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>

#include "comm/communicator.h"
#include "config/experiment.h"
#include "run/run_lock.h"

namespace longhaul {

/// Makes the folder and locks it on rank 0, whose lock is returned (elsewhere nothing); all ranks must see that lock.
/// Throws Error when it cannot be made, is another host's, or in use. Collective.
std::unique_ptr<RunLock> take_run_folder(Communicator& world, const std::filesystem::path& folder);

/// The step of the newest whole checkpoint in job.folder, -1 to begin at step 0, by checkpoint.resume; leftovers of
/// runs that died are removed. Throws Error when a used folder is not to be used, or none of its checkpoints is whole.
/// Collective.
std::int64_t find_resume_point(Communicator& world, const Experiment& experiment);

}  // namespace longhaul
