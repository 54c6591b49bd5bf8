#include "run/watchdog.h"

#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/log_file.h"
#include "comm/launch.h"

using namespace longhaul;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

namespace {

std::string read(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

struct Hang {
  std::string log;         // of all ranks
  std::int64_t ended = 0;  // ranks whose watchdog would have ended the job
  bool files_left = false;
};

// Three ranks take four quick steps; then rank `late` comes to a collective `seconds` later than the others.
Hang hang(int late, double seconds, double timeout) {
  std::string pattern = (fs::temp_directory_path() / "longhaul-watch-XXXXXX").string();
  REQUIRE(::mkdtemp(pattern.data()));
  const fs::path folder = pattern;
  Hang result;
  {
    const LogFile log((folder / "log").string());
    std::atomic<int> ended{0};
    run_threads(3, [&](Communicator& world) {
      Activity activity;
      const Activity::Place multiply{"accumulate_only", "einsum", 4, {world.rank()}},
          gather{"accumulate_only", "all_gather", 5, {0, 1, 2}};
      Watchdog watchdog(world, folder.string(), {timeout, 0.3, 5, 0.6, 0.05}, [&] { ++ended; });
      watchdog.watch(activity);
      for (int step = 1; step <= 4; ++step) {
        activity.enter(&multiply);
        activity.enter(&gather);
        world.barrier();
        activity.enter(nullptr);
        watchdog.finished_step(step, 0.01);
      }
      activity.enter(&multiply);
      if (world.rank() == late) std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
      activity.enter(&gather);
      world.barrier();
      activity.enter(nullptr);
      watchdog.finished_step(5, world.rank() == 0 ? seconds : 0.01);
      std::this_thread::sleep_for(std::chrono::milliseconds(300));  // the watchdogs see that it goes on
      return 0;
    });
    result.ended = ended;
  }
  result.log = read(folder / "log");
  result.files_left = fs::exists(folder / "watch") && !fs::is_empty(folder / "watch");
  fs::remove_all(folder);
  return result;
}

}  // namespace

TEST_CASE("a rank that does not come is named with its place, and when it comes after all the run goes on",
          "[threads]") {
  for (const int late : {0, 2}) {
    const Hang seen = hang(late, 6, 0);
    INFO(seen.log);
    const std::string waiting = late == 0 ? "ranks 1, 2" : "ranks 0, 1", who = "rank " + std::to_string(late);
    // The lowest rank that does not move speaks; that may be the late one, which says where it is itself.
    if (late == 2) {
      CHECK_THAT(seen.log,
                 Contains(waiting + " in step 5, program accumulate_only, instruction 5, all_gather over ranks "
                                    "0, 1, 2; missing: rank 2 (host ") &&
                     Contains(", which is in step 5, program accumulate_only, instruction 4, einsum"));
    } else {
      CHECK_THAT(seen.log, Contains("rank 0 in step 5, program accumulate_only, instruction 4, einsum") &&
                               Contains("rank 1 is in step 5, program accumulate_only, instruction 5, all_gather"));
    }
    CHECK_THAT(seen.log, Contains("it goes on, after"));
    CHECK_THAT(seen.log, Contains("step 5 took 6.0 s, 600 times the median of 0.01 s"));
    CHECK(seen.ended == 0);
    CHECK(!seen.files_left);
  }
}

TEST_CASE("after distributed.timeout the job is ended, with the report", "[threads]") {
  const Hang seen = hang(2, 9, 2);
  INFO(seen.log);
  CHECK_THAT(seen.log,
             Contains("distributed.timeout of 2 s is over") && Contains("exit code 86") && Contains("missing: rank 2"));
  CHECK(seen.ended >= 1);  // the lowest ends it, the others should it be unable to
}

TEST_CASE("a run that moves is never reported, however many its steps", "[.timing]") {
  const Hang seen = hang(1, 0.05, 1);
  INFO(seen.log);
  CHECK(seen.log == "");
  CHECK(seen.ended == 0);
}
