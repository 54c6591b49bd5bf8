// The matrix on real processes: a case starts this program again, as ranks under mpirun or that find one another by
// sockets, and each holds its outcome to the specification.
#pragma once
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>

#include "base/environment.h"
#include "base/error.h"
#include "base/sanitizers.h"
#include "comm/sockets/connection.h"
#include "matrix.h"

namespace longhaul::testing {

/// Cells whose split has as many ranks as `world`, every split with every stage; family, data and dtype go round, each
/// at its own pace. `takes` says whether a cell is run, by its turn, and may change it (its device). Throws Error for
/// the first that is too far from the specification. Returns 0.
inline int run_matrix(Communicator& world, const std::function<bool(std::size_t turn, CellIndex&, Cell&)>& takes) {
  References references;
  Worst worst;
  std::size_t turn = 0;
  for (std::size_t split = 0; split < all_splits().size(); ++split) {
    if (all_splits()[split].world() != world.size()) continue;
    for (std::size_t stage = 0; stage <= 3; ++stage, ++turn) {
      CellIndex index = {(turn + turn / 4) % families().size(), split, stage, turn % data_cases().size(),
                         turn % 5 == 3   ? 1u
                         : turn % 5 == 4 ? 2u
                                         : 0u};
      Cell cell = cell_of(index);
      if (!takes(turn, index, cell)) continue;
      const CompileRequest request = request_for(cell);
      const CompiledModel model = compile_model(request);
      std::string problem;
      const Outcome outcome = run_rank(world, cell, request, model, problem);
      if (problem.empty() && world.rank() == 0) problem = judge(index, cell, outcome, references, worst);
      if (!problem.empty()) fail("{}: {}", name_of_cell(index), problem);
    }
  }
  return 0;
}

/// The exit code of a command of the shell.
inline int shell(const std::string& command) {
  const int status = std::system(command.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

inline std::string this_program() {
  return std::filesystem::read_symlink("/proc/self/exe").string();
}

/// The case of that name on so many ranks; 0 when all have passed.
inline int under_mpirun(int ranks, const std::string& name) {
  std::string environment;
#ifdef LONGHAUL_ADDRESS_SANITIZER
  environment = "ASAN_OPTIONS=detect_leaks=0 ";  // MPI libraries leak by design
#endif
  return shell(
      fmt::format("env {}timeout -k 5 300 mpirun --oversubscribe --allow-run-as-root -n {} '{}' '{}' < /dev/null",
                  environment, ranks, this_program(), name));
}

inline int over_sockets(int ranks, const std::string& name) {
  const int port = [] {
    const auto socket = sockets::listen_on(0);
    return sockets::port_of(*socket);
  }();
  return shell(
      fmt::format("all=; for rank in $(seq 0 {}); do RANK=$rank WORLD_SIZE={} MASTER_ADDR=127.0.0.1 MASTER_PORT={} "
                  "timeout -k 5 300 '{}' '{}' < /dev/null > /dev/null & all=\"$all $!\"; done; "
                  "for one in $all; do wait $one || exit 1; done",
                  ranks - 1, ranks, port, this_program(), name));
}

}  // namespace longhaul::testing
