// Cells of the matrix in low precisions on processes, each with an emulator of its own: as near to the specification as
// one rank on a CPU asks, by every way for messages between devices.
#include <catch2/catch.hpp>

#include "../proof/processes.h"
#include "base/environment.h"
#include "comm/launch.h"
#include "emulated.h"

namespace longhaul {
namespace {

using namespace testing;

// A few of each number of ranks: float32 and bfloat16 in turn, of other families, data, splits and stages, and so with
// the three ways.
int run_some(Communicator& world) {
  std::size_t taken = 0;
  const int result = run_matrix(world, [&](std::size_t turn, CellIndex& index, Cell& cell) {
    if (turn % 9 != 4) return false;
    index[4] = 1 + taken % 2;
    cell = cell_of(index);
    cell.device = std::array{by_nccl, by_push, emulated}.at(taken++ % 3);
    return true;
  });
  LONGHAUL_CHECK(taken >= 2, "{} cells", taken);
  return result;
}

}  // namespace

#ifdef LONGHAUL_WITH_MPI
TEST_CASE("mpi child cells on devices", "[.mpi-child]") {
  if (!under_launcher()) return;
  CHECK(run_mpi(run_some) == 0);
}

TEST_CASE("cells of the matrix on devices under mpirun", "[mpi]") {
  for (const int ranks : {2, 3}) CHECK(under_mpirun(ranks, "mpi child cells on devices") == 0);
}
#endif

TEST_CASE("sockets child cells on devices", "[.sockets-child]") {
  if (!foreign_variable("MASTER_PORT")) return;
  CHECK(run_sockets(run_some) == 0);
}

TEST_CASE("cells of the matrix on devices of four processes that find one another by sockets", "[threads]") {
  CHECK(over_sockets(4, "sockets child cells on devices") == 0);
}

}  // namespace longhaul
