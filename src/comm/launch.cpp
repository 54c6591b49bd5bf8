#include "comm/launch.h"

#include <chrono>
#include <cstdlib>
#include <thread>

#include "base/environment.h"
#include "base/error.h"
#include "comm/launcher_size.h"
#include "comm/mpi/abort_job.h"

namespace longhaul {

std::optional<LauncherSize> launcher_size() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"})
    if (const auto value = foreign_variable(name); value && !value->empty()) return LauncherSize{name, *value};
  return std::nullopt;
}

bool under_launcher() {
  return launcher_size().has_value();
}

void refuse_several_processes() {
  auto launcher = launcher_size();
  if (!launcher)  // as torchrun and Kubernetes' operators say it
    if (const auto rank = foreign_variable("RANK"), size = foreign_variable("WORLD_SIZE");
        rank && !rank->empty() && size && !size->empty())
      launcher = LauncherSize{"WORLD_SIZE", *size};
  if (!launcher || launcher->value == "1") return;
  fail(
      "--ranks starts the ranks here, but the launcher says {}={}: each of its processes would start a run of its "
      "own, in the same run folder. Leave out --ranks, and the processes are the ranks{}; or leave out the launcher "
      "(mpirun, srun), or start one process with it; if no launcher is meant, unset {}",
      launcher->variable, launcher->value,
      std::string_view(launcher->variable) == "WORLD_SIZE" ? " (with --transport sockets)" : "", launcher->variable);
}

void refuse_other_size(int mpi_size, const std::string& library) {
  const auto launcher = launcher_size();
  if (!launcher || launcher->value == std::to_string(mpi_size)) return;
  fail(
      "the launcher says {}={}, but MPI ({}) counts {} rank(s): the processes would not work together. Start them with "
      "the mpirun of that MPI, or under Slurm with a matching plugin (srun --mpi=pmix for Open MPI, --mpi=pmi2 for "
      "MPICH); or let them find one another without MPI (--transport sockets); for threads of one process use --ranks "
      "N "
      "without a launcher; if no launcher is meant, unset {}",
      launcher->variable, launcher->value, library, mpi_size, launcher->variable);
}

void refuse_unled_processes() {
  const auto rank = foreign_variable("RANK"), size = foreign_variable("WORLD_SIZE");
  if (!rank || rank->empty() || !size || size->empty() || *size == "1") return;
  fail(
      "the environment says that this is process {} of {} (RANK, WORLD_SIZE), and nothing says how they talk: give "
      "--transport sockets to make them the ranks of one run, or unset WORLD_SIZE if this is a run of its own",
      *rank, *size);
}

bool mpi_available() {
#ifdef LONGHAUL_WITH_MPI
  return true;
#else
  return false;
#endif
}

void end_job(const Communicator& world, int code) noexcept {
#ifdef LONGHAUL_WITH_MPI
  if (world.transport() == "mpi" && !world.one_process()) {
    // MPI itself may be what is stuck.
    try {
      std::thread([code] {
        std::this_thread::sleep_for(std::chrono::seconds(10));
        std::_Exit(code);
      }).detach();
    } catch (const std::exception&) {
    }
    abort_job(nullptr, code);
  }
#else
  (void)world;
#endif
  std::_Exit(code);
}

#ifndef LONGHAUL_WITH_MPI
std::string mpi_library() {
  return "";
}

int run_mpi(const std::function<int(Communicator&)>&) {
  fail(
      "this build has no MPI: let processes find one another without it (--transport sockets), use --ranks N (threads "
      "of "
      "one process) without a launcher, or install an MPI library and build again with -DLONGHAUL_MPI=ON");
}
#endif

}  // namespace longhaul
