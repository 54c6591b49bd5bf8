// Every split with every ZeRO stage on real processes: each case starts this program again, once for each number of
// ranks, under mpirun, or as ranks that find one another by sockets.
#include "base/sanitizers.h"

#ifndef LONGHAUL_THREAD_SANITIZER  // nothing races in processes that does not in threads, which it tries
#include <sys/wait.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>

#include "base/environment.h"
#include "base/error.h"
#include "comm/launch.h"
#include "comm/sockets/connection.h"
#include "matrix.h"

namespace longhaul {
namespace {

using namespace testing;

// The cells whose split has as many ranks as there are.
int run_matrix(Communicator& world) {
  References references;
  Worst worst;
  std::size_t turn = 0;  // family, data and dtype go round, each at its own pace
  for (std::size_t split = 0; split < all_splits().size(); ++split) {
    if (all_splits()[split].world() != world.size()) continue;
    for (std::size_t stage = 0; stage <= 3; ++stage, ++turn) {
      const CellIndex index = {(turn + turn / 4) % families().size(), split, stage, turn % data_cases().size(),
                               turn % 5 == 3   ? 1u
                               : turn % 5 == 4 ? 2u
                                               : 0u};
      const Cell cell = cell_of(index);
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

int shell(const std::string& command) {
  const int status = std::system(command.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string self() {
  return std::filesystem::read_symlink("/proc/self/exe").string();
}

}  // namespace

#ifdef LONGHAUL_WITH_MPI
TEST_CASE("mpi child matrix", "[.mpi-child]") {
  if (!under_launcher()) return;
  CHECK(run_mpi(run_matrix) == 0);
}

TEST_CASE("every split and ZeRO stage under mpirun", "[mpi]") {
  std::string environment;
#ifdef LONGHAUL_ADDRESS_SANITIZER
  environment = "ASAN_OPTIONS=detect_leaks=0 ";  // MPI libraries leak by design
#endif
  for (const int ranks : {2, 3, 4})
    CHECK(shell(fmt::format(
              "env {}timeout -k 5 300 mpirun --oversubscribe --allow-run-as-root -n {} '{}' 'mpi child matrix' "
              "< /dev/null",
              environment, ranks, self())) == 0);
}
#endif

TEST_CASE("sockets child matrix", "[.sockets-child]") {
  if (!foreign_variable("MASTER_PORT")) return;
  CHECK(run_sockets(run_matrix) == 0);
}

TEST_CASE("every split of four ranks and ZeRO stage on processes that find one another by sockets", "[threads]") {
  const int port = [] {
    const auto socket = sockets::listen_on(0);
    return sockets::port_of(*socket);
  }();
  CHECK(
      shell(fmt::format("all=; for rank in 0 1 2 3; do RANK=$rank WORLD_SIZE=4 MASTER_ADDR=127.0.0.1 MASTER_PORT={} "
                        "timeout -k 5 300 '{}' 'sockets child matrix' < /dev/null > /dev/null & all=\"$all $!\"; done; "
                        "for one in $all; do wait $one || exit 1; done",
                        port, self())) == 0);
}

}  // namespace longhaul
#endif
