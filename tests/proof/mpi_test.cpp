// Every split with every ZeRO stage under mpirun: the [mpi] case starts this program again on real processes, once for
// each number of ranks.
#ifdef LONGHAUL_WITH_MPI
#include <sys/wait.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>

#include "base/error.h"
#include "matrix.h"

namespace longhaul {
namespace {

using namespace testing;

int launch(int ranks) {
  const auto self = std::filesystem::read_symlink("/proc/self/exe").string();
  std::string environment;
#ifdef __SANITIZE_ADDRESS__
  environment = "ASAN_OPTIONS=detect_leaks=0 ";  // MPI libraries leak by design
#endif
  const int status = std::system(
      fmt::format(
          "env {}timeout -k 5 300 mpirun --oversubscribe --allow-run-as-root -n {} '{}' 'mpi child matrix' < /dev/null",
          environment, ranks, self)
          .c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

TEST_CASE("mpi child matrix", "[.mpi-child]") {
  if (!under_launcher()) return;
  const int result = run_mpi([](Communicator& world) {
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
  });
  CHECK(result == 0);
}

TEST_CASE("every split and ZeRO stage under mpirun", "[mpi]") {
  for (const int ranks : {2, 3, 4}) CHECK(launch(ranks) == 0);
}

}  // namespace longhaul
#endif
