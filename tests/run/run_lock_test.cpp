#include "run/run_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"
#include "base/host.h"

using namespace longhaul;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

namespace {

constexpr RunLock::Times quick{0.05, 0.4};

class Folder {
 public:
  Folder() {
    std::string pattern = (fs::temp_directory_path() / "longhaul-lock-XXXXXX").string();
    if (!::mkdtemp(pattern.data())) throw std::runtime_error("mkdtemp failed");
    path = pattern;
  }
  ~Folder() { fs::remove_all(path); }
  std::string text() const { return path.string(); }
  fs::path lock() const { return path / "lock"; }
  fs::path path;
};

nlohmann::ordered_json read_lock(const Folder& folder) {
  std::ifstream file(folder.lock());
  return nlohmann::ordered_json::parse(file);
}
// As another holder would have written it; what it was replaces the file.
void write_lock(const Folder& folder, const nlohmann::ordered_json& holder) {
  std::ofstream(folder.lock()) << holder.dump() << "\n";
}
// What a lock of this process says, changed.
nlohmann::ordered_json holder_like(const Folder& folder, const nlohmann::ordered_json& changes) {
  const RunLock lock(folder.text(), quick);
  auto holder = read_lock(folder);
  holder.update(changes);
  holder["token"] = "0123456789abcdef";
  return holder;
}
std::int64_t dead_process() {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ::waitpid(child, nullptr, 0);
  return child;
}
double seconds_of(const std::function<void()>& function) {
  const auto begin = std::chrono::steady_clock::now();
  function();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

const nlohmann::ordered_json elsewhere = {{"host", "node7"}, {"machine", "another boot pid:[1]"}, {"process", 4711}};

}  // namespace

TEST_CASE("a second run in a folder is refused and told whose it is; given up, the folder is free and clean") {
  const Folder folder;
  for (const bool flock : {true, false}) {
    const RunLock::Times times{0.05, 0.4, flock};
    {
      const RunLock lock(folder.text(), times);
      CHECK(lock.taken_over() == "");
      CHECK(RunLock::token_in(folder.text()) == lock.token());
      CHECK(lock.token().size() == RunLock::token_length);
      CHECK_THROWS_WITH(
          RunLock(folder.text(), times),
          Contains(fmt::format("process {} on host {}", getpid(), host_name())) && Contains("job.folder"));
      lock.require();
    }
    CHECK(fs::is_empty(folder.path));
  }
}

TEST_CASE("a dead holder's lock is taken over, and the reason said") {
  const Folder folder;
  for (const bool flock : {true, false}) {
    const RunLock::Times times{0.05, 0.4, flock};
    const auto takes = [&](const nlohmann::ordered_json& holder, const std::string& reason) {
      write_lock(folder, holder);
      const RunLock lock(folder.text(), times);
      CHECK_THAT(lock.taken_over(), Contains(reason) && Contains(flock ? "flock (free)" : "flock (this file system"));
      CHECK(RunLock::token_in(folder.text()) == lock.token());
      CHECK_THROWS_AS(RunLock(folder.text(), times), Error);  // and it holds
    };
    takes(holder_like(folder, {{"process", dead_process()}}), "no such process");
    takes(holder_like(folder, {{"process_start", 17}}), "another process's now");
    takes(holder_like(folder, elsewhere), "process 4711 on host node7");
    takes(holder_like(folder, elsewhere), "no sign of life");
  }
  // A holder that died before it wrote its name.
  std::ofstream(folder.lock()) << "";
  CHECK(RunLock(folder.text(), quick).taken_over() == "");
}

TEST_CASE("a holder on another machine lives as long as its beat goes on") {
  const Folder folder;
  auto holder = holder_like(folder, elsewhere);
  write_lock(folder, holder);
  std::atomic<bool> ends{false};
  std::thread beating([&] {
    for (int beat = 1; !ends; ++beat) {
      holder["beat"] = fmt::format("{:010}", beat);
      write_lock(folder, holder);
      std::this_thread::sleep_for(std::chrono::milliseconds(30));
    }
  });
  CHECK_THROWS_WITH(RunLock(folder.text(), quick), Contains("node7") && Contains("beat goes on"));
  ends = true;
  beating.join();
  // Silent for long by the file system's clock: no need to wait and see.
  const auto old = fs::last_write_time(folder.lock()) - std::chrono::hours(1);
  fs::last_write_time(folder.lock(), old);
  const RunLock::Times patient{0.05, 20};
  CHECK(seconds_of([&] { CHECK_THAT(RunLock(folder.text(), patient).taken_over(), Contains("for 36")); }) < 5);
}

TEST_CASE("a dead machine's flock that the server still keeps does not hold for ever") {
  const Folder folder;
  write_lock(folder, holder_like(folder, elsewhere));
  // Another open file, as the server would keep it for the client that is gone.
  const int other = ::open(folder.lock().c_str(), O_RDWR | O_CLOEXEC);
  REQUIRE(::flock(other, LOCK_EX) == 0);
  {
    const RunLock lock(folder.text(), quick);
    CHECK_THAT(lock.taken_over(), Contains("node7") && Contains("flock (still held)"));
    CHECK(RunLock::token_in(folder.text()) == lock.token());
  }
  ::close(other);
  CHECK(fs::is_empty(folder.path));
}

TEST_CASE("a run whose lock was taken or removed learns it before its next write") {
  const auto learns = [](const RunLock& lock, const std::string& reason) {
    for (int i = 0; i < 100; ++i) {
      try {
        lock.require();
      } catch (const Error& error) {
        CHECK_THAT(error.what(), Contains(reason));
        return true;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return false;
  };
  const Folder folder;
  const auto other = holder_like(folder, elsewhere);
  {
    const RunLock lock(folder.text(), quick);
    write_lock(folder, other);
    CHECK(learns(lock, "taken over by process 4711 on host node7"));
  }
  CHECK(read_lock(folder)["host"] == "node7");  // not ours to remove
  fs::remove(folder.lock());
  const RunLock lock(folder.text(), quick);
  fs::remove(folder.lock());
  CHECK(learns(lock, "it was removed"));
}

TEST_CASE("of runs that start at one moment one gets the folder") {
  const Folder folder;
  for (const bool flock : {true, false})
    for (int round = 0; round < 2; ++round) {
      // Half of the rounds find a dead holder's lock, which all of them may take over.
      if (round % 2) write_lock(folder, holder_like(folder, {{"process", dead_process()}}));
      const RunLock::Times times{1, 1, flock};  // a busy machine stops threads for a while
      std::vector<std::unique_ptr<RunLock>> locks(4);
      std::vector<std::thread> starts;
      for (auto& lock : locks)
        starts.emplace_back([&] {
          try {
            lock = std::make_unique<RunLock>(folder.text(), times);
          } catch (const Error&) {
          }
        });
      for (auto& start : starts) start.join();
      int holders = 0;
      for (const auto& lock : locks) holders += lock != nullptr;
      CHECK(holders == 1);
    }
}
