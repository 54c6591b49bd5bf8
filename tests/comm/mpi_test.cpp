// MPI needs processes: the [mpi] cases start this program again under mpirun, where a hidden case (named "mpi child
// ...") calls run_mpi, and look at how that ended.
#ifdef LONGHAUL_WITH_MPI
#include <mpi.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

#include "base/error.h"
#include "base/sanitizers.h"
#include "collective_checks.h"
#include "comm/exchange.h"
#include "comm/launch.h"
#include "comm/mpi/mpi_communicator.h"

using namespace longhaul;
using Catch::Matchers::Contains;

namespace {

struct Ended {
  int code = -1;
  std::string output;
  double seconds = 0;
};

/// Runs one hidden case of this program on `ranks` processes.
Ended launch(int ranks, const std::string& child, const std::string& environment = "") {
#ifdef OPEN_MPI
  const std::string launcher = "mpirun --oversubscribe --allow-run-as-root";
#else
  const std::string launcher = "mpiexec";
#endif
  std::string setting = environment;
#ifdef LONGHAUL_ADDRESS_SANITIZER
  setting += " ASAN_OPTIONS=detect_leaks=0";  // MPI libraries leak by design
#endif
  const auto self = std::filesystem::read_symlink("/proc/self/exe").string();
  const auto log = std::filesystem::temp_directory_path() / ("longhaul_mpi_test." + std::to_string(getpid()));
  // The time limit turns a hang into a failure (124).
  const std::string command = "env " + setting + " timeout -k 5 120 " + launcher + " -n " + std::to_string(ranks) +
                              " '" + self + "' 'mpi child " + child + "' > '" + log.string() + "' 2>&1 < /dev/null";
  Ended ended;
  const auto start = std::chrono::steady_clock::now();
  const int status = std::system(command.c_str());
  ended.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  ended.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  std::ostringstream text;
  text << std::ifstream(log).rdbuf();
  ended.output = text.str();
  std::filesystem::remove(log);
  return ended;
}

std::size_t occurrences(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

}  // namespace

// ---- what runs under mpirun. Catch selects hidden cases too when a filter only excludes tags; they do nothing then.

TEST_CASE("mpi child collectives", "[.mpi-child]") {
  if (!under_launcher()) return;
  CHECK(run_mpi([](Communicator& communicator) {
          if (communicator.transport() != "mpi") fail("wrong transport");
          if (communicator.one_process() != (communicator.size() == 1)) fail("processes");
          check_collectives(communicator, communicator.size() == 3);
          check_traffic(communicator);
          check_exchange(communicator);
          // Messages cut into pieces of five bytes.
          MpiCommunicator cut(MPI_COMM_WORLD, false, 5);
          check_collectives(cut, false);
          if (communicator.size() == 4) check_mesh_groups(communicator);

          // The same bits as threads of one process.
          const auto mine = reduction_bits(communicator);
          std::vector<std::uint8_t> theirs;
          run_threads(communicator.size(), [&](Communicator& thread) {
            const auto bits = reduction_bits(thread);
            if (thread.rank() == communicator.rank()) theirs = bits;
            return 0;
          });
          if (mine.size() < 1000000 || mine != theirs) fail("MPI and threads give different bits");
          return 0;
        }) == 0);
}

TEST_CASE("mpi child result", "[.mpi-child]") {
  if (!under_launcher()) return;
  // The largest of 10, 11, ... on every rank.
  int size = 0;
  const int result = run_mpi([&](Communicator& communicator) {
    size = communicator.size();
    return 10 + communicator.rank();
  });
  CHECK(result == 10 + size - 1);
}

TEST_CASE("mpi child throws", "[.mpi-child]") {
  if (!under_launcher()) return;
  run_mpi([](Communicator& communicator) {
    if (communicator.rank() == 1) fail("disk full");
    communicator.barrier();
    return 0;
  });
}

TEST_CASE("mpi child aborts", "[.mpi-child]") {
  if (!under_launcher()) return;
  run_mpi([](Communicator& communicator) {
    const auto group = communicator.group(communicator.rank() == 0 ? std::vector<int>{0} : std::vector<int>{2, 1});
    if (communicator.rank() == 2) group->abort("hang: step 7");  // rank 0 of its group
    communicator.barrier();
    return 0;
  });
}

TEST_CASE("mpi child disagrees", "[.mpi-child]") {
  if (!under_launcher()) return;
  run_mpi([](Communicator& communicator) {
    agree(communicator, "");
    agree(communicator, communicator.rank() >= 1 ? "weights truncated" : "");
    return 0;
  });
}

TEST_CASE("mpi child survives a disagreement", "[.mpi-child]") {
  if (!under_launcher()) return;
  bool thrown = false;
  run_mpi([&](Communicator& communicator) {
    try {
      agree(communicator, communicator.rank() == 1 ? "no" : "");
    } catch (const Error& error) {
      thrown = std::string(error.what()) == "rank 1: no";
    }
    check_collectives(communicator, false);
    return 0;
  });
  CHECK(thrown);
}

TEST_CASE("mpi child is killed", "[.mpi-child]") {
  if (!under_launcher()) return;
  run_mpi([](Communicator& communicator) {
    std::vector<float> data(1 << 20, 1.0f);
    std::vector<std::uint8_t> scratch(
        Communicator::reduction_scratch_bytes(communicator.size(), data.size(), DType::float32));
    std::thread killer;
    if (communicator.rank() == 1)
      killer = std::thread([] {
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
        kill(getpid(), SIGKILL);
      });
    for (;;) communicator.all_reduce(data.data(), data.data(), data.size(), DType::float32, scratch.data());
    return 0;
  });
}

TEST_CASE("mpi child refuses a wrong size", "[.mpi-child]") {
  if (!under_launcher()) return;
  bool called = false;
  CHECK_THROWS_WITH(run_mpi([&](Communicator&) {
                      called = true;
                      return 0;
                    }),
                    Contains("OMPI_COMM_WORLD_SIZE=7"));
  CHECK_FALSE(called);
}

// ---- what starts it

TEST_CASE("mpi: every collective equals the oracle, and reductions have the bits of threads", "[mpi]") {
  for (int ranks = 2; ranks <= 4; ++ranks) {
    const auto ended = launch(ranks, "collectives");
    CAPTURE(ranks, ended.output);
    CHECK(ended.code == 0);
    // All ranks ran the case: a launcher that starts nothing must not pass.
    CHECK(occurrences(ended.output, "All tests passed") == static_cast<std::size_t>(ranks));
  }
}

TEST_CASE("mpi: run_mpi returns the largest result on every rank", "[mpi]") {
  const auto ended = launch(2, "result");
  CAPTURE(ended.output);
  CHECK(ended.code == 0);
  CHECK(occurrences(ended.output, "All tests passed") == 2);
}

TEST_CASE("mpi: an exception ends the job with its message once", "[mpi]") {
  const auto ended = launch(3, "throws");
  CAPTURE(ended.output);
  CHECK(ended.code == 1);
  CHECK(occurrences(ended.output, "rank 1: disk full") == 1);
  CHECK(ended.seconds < 30);
}

TEST_CASE("mpi: abort ends the job and names the rank of the world", "[mpi]") {
  const auto ended = launch(3, "aborts");
  CAPTURE(ended.output);
  CHECK(ended.code == 1);
  CHECK(occurrences(ended.output, "rank 2: hang: step 7") == 1);
}

TEST_CASE("mpi: agree ends the job with the lowest failing rank's message once", "[mpi]") {
  const auto ended = launch(3, "disagrees");
  CAPTURE(ended.output);
  CHECK(ended.code == 1);
  CHECK(occurrences(ended.output, "weights truncated") == 1);
  CHECK(occurrences(ended.output, "rank 1: weights truncated") == 1);
  CHECK(ended.seconds < 30);

  const auto survived = launch(2, "survives a disagreement");
  CAPTURE(survived.output);
  CHECK(survived.code == 0);
  CHECK(occurrences(survived.output, "All tests passed") == 2);
}

TEST_CASE("mpi: a killed rank ends the job soon, not with 0", "[mpi]") {
  const auto ended = launch(3, "is killed");
  CAPTURE(ended.output);
  CHECK(ended.code != 0);
  CHECK(ended.code != 124);
  CHECK(ended.seconds < 30);
}

#ifdef OPEN_MPI
TEST_CASE("mpi: singletons under a launcher are refused", "[mpi]") {
  // As another MPI's launcher would start this program: each process alone, with a variable that says seven.
  const auto self = std::filesystem::read_symlink("/proc/self/exe").string();
  std::string setting = "OMPI_COMM_WORLD_SIZE=7";
#ifdef LONGHAUL_ADDRESS_SANITIZER
  setting += " ASAN_OPTIONS=detect_leaks=0";
#endif
  const int status = std::system(
      ("env " + setting + " timeout -k 5 60 '" + self + "' 'mpi child refuses a wrong size' > /dev/null 2>&1").c_str());
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}
#endif
#endif
