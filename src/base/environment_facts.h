// What the environment says about a run; read in environment.cpp, as all of it.
#pragma once
#include <string>
#include <utility>
#include <vector>

namespace longhaul {

/// Variables that are set and decide what is computed, by name: LONGHAUL_* but those that only show, find or narrow.
std::vector<std::pair<std::string, std::string>> deciding_environment();
/// Variables that are set and narrow which instructions our kernels and libraries use, or how they divide work:
/// LONGHAUL_ISA, OMP_NUM_THREADS, and those of oneDNN and OpenBLAS.
std::vector<std::pair<std::string, std::string>> narrowing_environment();

/// The batch system's number of the job that this process is part of: SLURM_JOB_ID, PBS_JOBID or LSB_JOBID; empty
/// outside of one.
std::string batch_job();

}  // namespace longhaul
