// What an MPI or Slurm launcher says in the environment about the number of processes that it started.
#pragma once
#include <optional>
#include <string>

namespace longhaul {

struct LauncherSize {
  std::string variable;
  std::string value;
};

/// The first of OMPI_COMM_WORLD_SIZE, PMI_SIZE and SLURM_STEP_NUM_TASKS that is set and not empty.
std::optional<LauncherSize> launcher_size();

/// Throws Error when a launcher started several processes (or says something that is no number): for ranks that are
/// threads, of which every process would start its own run.
void refuse_several_processes();

/// Throws Error when the launcher's number is not `mpi_size`; `library` names the MPI that counted. Nothing set: no
/// check.
void refuse_other_size(int mpi_size, const std::string& library);

/// Throws Error when RANK and WORLD_SIZE say that this is one of several processes, and no launcher that MPI knows
/// does: each would start a run of its own.
void refuse_unled_processes();

}  // namespace longhaul
