#include "comm/launch.h"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <map>
#include <optional>
#include <string>

#include "base/error.h"
#include "comm/launcher_size.h"
#include "scoped_environment.h"

using namespace longhaul;
using Catch::Matchers::Contains;

namespace {

ScopedEnvironment launcher(const char* open_mpi, const char* pmi, const char* slurm) {
  return ScopedEnvironment(
      {{"OMPI_COMM_WORLD_SIZE", open_mpi}, {"PMI_SIZE", pmi}, {"SLURM_STEP_NUM_TASKS", slurm}, {"SLURM_NTASKS", "9"}});
}

}  // namespace

TEST_CASE("a launcher is known by its own variables, in order, and never by the whole job's") {
  {
    const auto none = launcher(nullptr, nullptr, nullptr);
    CHECK_FALSE(under_launcher());
    CHECK_NOTHROW(refuse_other_size(1, "x"));
  }
  {
    const auto empty = launcher("", nullptr, nullptr);
    CHECK_FALSE(under_launcher());
  }
  {
    const auto all = launcher("4", "3", "2");
    CHECK(under_launcher());
    CHECK_NOTHROW(refuse_other_size(4, "x"));
    CHECK_THROWS_WITH(refuse_other_size(3, "x"), Contains("OMPI_COMM_WORLD_SIZE=4"));
  }
  {
    const auto two = launcher(nullptr, "3", "2");
    CHECK(under_launcher());
    CHECK_NOTHROW(refuse_other_size(3, "x"));
  }
  {
    const auto one = launcher(nullptr, nullptr, "2");
    CHECK(under_launcher());
    CHECK_THROWS_WITH(refuse_other_size(1, "Some MPI 4"),
                      Contains("SLURM_STEP_NUM_TASKS=2") && Contains("Some MPI 4") && Contains("--mpi=pmix"));
  }
  {
    const auto garbled = launcher("many", nullptr, nullptr);
    CHECK_THROWS_WITH(refuse_other_size(1, "x"), Contains("=many"));
  }
}

#ifndef LONGHAUL_WITH_MPI
TEST_CASE("a build without MPI says so") {
  CHECK_FALSE(mpi_available());
  CHECK_THROWS_AS(run_mpi([](Communicator&) { return 0; }), Error);
  CHECK_THROWS_WITH(run_mpi([](Communicator&) { return 0; }), Contains("--ranks N") && Contains("LONGHAUL_MPI"));
}
#else
TEST_CASE("a build with MPI says so") {
  CHECK(mpi_available());
}
#endif
