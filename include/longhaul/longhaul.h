// Longhaul's public interface: what the longhaul program's commands do, as functions. Nothing here depends on a private
// header.
//
// Link the object library longhaul_core of this build (ops, passes and kernels register themselves, so a static archive
// would lose them).
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace longhaul {

/// Which run: an experiment file (docs/experiment.md), overrides ("section.key=value") and ranks.
struct RunRequest {
  std::filesystem::path experiment;
  std::vector<std::string> overrides = {};
  /// Threads of this process that act as ranks; 0: as launched (the processes of an MPI launcher, else one rank).
  int ranks = 0;
};

/// Trains to the last step, or finds the run finished, and returns 0; or 85 when a signal (TERM, INT, USR1, HUP,
/// handled while it runs) or training.time_limit stopped it after saving: called again it goes on. Throws
/// std::runtime_error with a message for people for everything that ends a run early. Under MPI a failed rank prints
/// its message and ends the whole job instead.
int train(const RunRequest& request);

/// What a compilation says before anything runs.
struct Compilation {
  std::int64_t bytes_per_rank = 0;     ///< of tensors, exactly what train maps
  std::vector<std::string> decisions;  ///< what `auto` became, padding and so on
  std::string memory;                  ///< the memory table as text
  std::string traffic;                 ///< bytes that rank 0 sends, by program and collective, as text
};

/// Compiles for `request.ranks` ranks (at least 1, any number: none is started) and runs nothing. `dump`, when not
/// empty, is a folder for the IR after every pass, the programs and the memory table. Throws std::runtime_error.
Compilation compile(const RunRequest& request, const std::filesystem::path& dump = {});

}  // namespace longhaul
