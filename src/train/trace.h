// What ranks and their queues did, as a file that Perfetto and chrome://tracing draw.
#pragma once
#include <filesystem>
#include <vector>

#include "comm/communicator.h"
#include "runtime/executor.h"

namespace longhaul {

/// Rank 0 writes the events of all ranks, the first at 0: a process a rank, in it a thread for the rank's own work and
/// one for each queue. Ranks of one host share a clock; of others each begins at its own 0. Collective. Throws Error
/// when nothing was recorded, and when the file cannot be written.
void write_trace(Communicator& world, const std::vector<TraceEvent>& events, const std::filesystem::path& file);

}  // namespace longhaul
