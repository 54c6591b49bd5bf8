// How ranks come to be: one process (one rank), threads of one process (--ranks N), or processes under an MPI launcher.
#pragma once
#include <functional>

#include "comm/communicator.h"

namespace longhaul {

/// Runs body(communicator) on `ranks` threads of this process and returns the largest of their results. A rank that
/// throws wakes all others; the first failure (by time) is rethrown here, with its rank in the message when ranks > 1.
/// Sets the log rank of each thread.
int run_threads(int ranks, const std::function<int(Communicator&)>& body);

/// True when this build has MPI.
bool mpi_available();
/// True when the environment shows an MPI or Slurm launcher: OMPI_COMM_WORLD_SIZE, PMI_SIZE or SLURM_STEP_NUM_TASKS is
/// set (in that order; never SLURM_NTASKS, which is the whole job's).
bool under_launcher();
/// Initialises MPI, checks its size against the launcher's variable (a mismatch is refused with what to do: N
/// singletons must not look like N ranks), runs body on MPI_COMM_WORLD and finalises. An exception prints its message
/// with the rank and ends the whole job with a nonzero code. Throws Error when this build has no MPI.
int run_mpi(const std::function<int(Communicator&)>& body);

}  // namespace longhaul
