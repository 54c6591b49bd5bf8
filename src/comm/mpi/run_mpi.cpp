#include <mpi.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "comm/launch.h"
#include "comm/launcher_size.h"
#include "comm/mpi/abort_job.h"
#include "comm/mpi/mpi_communicator.h"
#include "comm/rank_message.h"

namespace longhaul {

void abort_job(const char* message, int code) noexcept {
  if (message) {
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    char prefix[32];
    std::snprintf(prefix, sizeof(prefix), "rank %d: ", rank);
    // One call, so that lines of several ranks do not mix. agree() has named the rank already.
    const bool named = std::strncmp(message, prefix, std::strlen(prefix)) == 0;
    std::fprintf(stderr, "%s%s\n", named ? "" : prefix, message);
    std::fflush(stderr);
  }
  MPI_Abort(MPI_COMM_WORLD, code);
}

std::string mpi_library() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(text, &length);
  // Its first line or sentence names the library; the rest is how it was built.
  return std::string(text, std::strcspn(text, ",\n"));
}

namespace {

void initialise() {
  int initialised = 0;
  MPI_Initialized(&initialised);
  LONGHAUL_CHECK(!initialised, "MPI can be initialised only once in a process");
  int provided = MPI_THREAD_SINGLE;
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
  int size = 0;
  check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &size), "MPI_Comm_size");
  try {
    if (provided < MPI_THREAD_FUNNELED)
      fail("MPI ({}) gives no thread support (level {}), which compute threads need: use an MPI built with it",
           mpi_library(), provided);
    refuse_other_size(size, mpi_library());
  } catch (...) {
    MPI_Finalize();
    throw;
  }
}

}  // namespace

int run_mpi(const std::function<int(Communicator&)>& body) {
  initialise();
  int result = 0;
  try {
    MpiCommunicator world(MPI_COMM_WORLD, false);
    set_log_rank(world.rank(), world.size());
    const int own = body(world);
    check_mpi(MPI_Allreduce(&own, &result, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD), "MPI_Allreduce");
  } catch (const PeerFailure&) {
    // The rank that failed prints its message and ends the job. Leave it the time; if it never does (it handled the
    // failure that this rank did not), end the job from here.
    std::this_thread::sleep_for(std::chrono::seconds(5));
    abort_job(nullptr);
    throw;
  } catch (const std::exception& error) {
    abort_job(error.what());
    throw;
  } catch (...) {
    abort_job("an exception of unknown type");
    throw;
  }
  check_mpi(MPI_Finalize(), "MPI_Finalize");
  return result;
}

}  // namespace longhaul
