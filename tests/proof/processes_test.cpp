// Every split with every ZeRO stage on real processes, one case for each number of ranks.
#include "base/sanitizers.h"

#ifndef LONGHAUL_THREAD_SANITIZER  // nothing races in processes that does not in threads, which it tries
#include <catch2/catch.hpp>

#include "comm/launch.h"
#include "processes.h"

namespace longhaul {
namespace {

using namespace testing;

int run_all(Communicator& world) {
  return run_matrix(world, [](std::size_t, const CellIndex&, const Cell&) { return true; });
}

}  // namespace

#ifdef LONGHAUL_WITH_MPI
TEST_CASE("mpi child matrix", "[.mpi-child]") {
  if (!under_launcher()) return;
  CHECK(run_mpi(run_all) == 0);
}

TEST_CASE("every split and ZeRO stage under mpirun", "[mpi]") {
  for (const int ranks : {2, 3, 4}) CHECK(under_mpirun(ranks, "mpi child matrix") == 0);
}
#endif

TEST_CASE("sockets child matrix", "[.sockets-child]") {
  if (!foreign_variable("MASTER_PORT")) return;
  CHECK(run_sockets(run_all) == 0);
}

TEST_CASE("every split of four ranks and ZeRO stage on processes that find one another by sockets", "[threads]") {
  CHECK(over_sockets(4, "sockets child matrix") == 0);
}

}  // namespace longhaul
#endif
