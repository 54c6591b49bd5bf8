#include "run/run_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <sstream>
#include <system_error>

#include "base/environment_facts.h"
#include "base/error.h"
#include "base/host.h"
#include "io/file.h"
#include "io/uninterrupted.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;

struct Holder {
  std::string host, machine, since, job, token, beat;
  std::int64_t process = 0;
  std::uint64_t process_start = 0;

  std::string text() const {
    std::string said = fmt::format("process {} on host {}, since {}", process, host, since);
    if (!job.empty()) said += ", job " + job;
    return said;
  }
};

std::string first_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// Process numbers mean the same only within one boot of one kernel and one process namespace.
std::string this_machine() {
  std::error_code problem;
  const fs::path space = fs::read_symlink("/proc/self/ns/pid", problem);
  return first_line("/proc/sys/kernel/random/boot_id") + " " + space.string();
}

// Ticks from boot to the start of a process; 0: there is none, or it has ended and nobody has asked for its status.
std::uint64_t start_of(std::int64_t process) {
  const std::string line = first_line(fmt::format("/proc/{}/stat", process).c_str());
  const std::size_t name_end = line.rfind(')');  // a name may hold spaces and parentheses
  if (name_end == std::string::npos) return 0;
  std::istringstream rest(line.substr(name_end + 1));
  std::string field;
  for (int number = 3; rest >> field; ++number) {
    if (number == 3 && (field == "Z" || field == "X")) return 0;
    if (number == 22) return std::stoull(field);
  }
  return 0;
}

std::string time_text(std::chrono::system_clock::time_point time) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(time);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

// None: no file, or an empty or torn one. Throws Error when the system does not let it be read: whoever takes a lock
// must not take that for nobody's.
std::optional<Holder> read_holder(const std::string& path) {
  std::string text;
  try {
    text = read_text(path, 1 << 20);
  } catch (const SystemError& error) {
    if (error.code() == ENOENT) return std::nullopt;
    throw;
  }
  const auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object()) return std::nullopt;
  try {
    Holder holder;
    holder.host = json.at("host");
    holder.machine = json.at("machine");
    holder.since = json.at("since");
    holder.job = json.at("job");
    holder.token = json.at("token");
    holder.beat = json.at("beat");
    holder.process = json.at("process");
    holder.process_start = json.at("process_start");
    return holder;
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  }
}

// The same for the lock's own run, which one that cannot be read does not end: none then.
std::optional<Holder> read_holder_or_none(const std::string& path) noexcept {
  try {
    return read_holder(path);
  } catch (const std::exception&) {
    return std::nullopt;
  }
}

double seconds_of(const timespec& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

// Seconds since the file was written, by the clock that stamps the file system's files: not this host's.
double age_of(const std::string& path) {
  const std::string probe = fmt::format("{}.probe-{}-{}", path, host_name(), getpid());
  const int descriptor =
      uninterrupted([&] { return ::open(probe.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666); });
  if (descriptor < 0) return 0;
  struct stat now {
  }, then{};
  const bool known =
      ::write(descriptor, "x", 1) == 1 && ::fstat(descriptor, &now) == 0 && ::stat(path.c_str(), &then) == 0;
  ::close(descriptor);
  ::unlink(probe.c_str());
  return known ? seconds_of(now.st_mtim) - seconds_of(then.st_mtim) : 0;
}

enum class Flock { taken, refused, absent };

Flock try_flock(int descriptor, const RunLock::Times& times) {
  if (!times.flock) return Flock::absent;
  int result;
  do result = ::flock(descriptor, LOCK_EX | LOCK_NB);
  while (result != 0 && errno == EINTR);
  if (result == 0) return Flock::taken;
  return errno == EWOULDBLOCK ? Flock::refused : Flock::absent;
}

[[noreturn]] void refuse(const std::string& path, const std::string& holder, const std::string& evidence) {
  fail(
      "the run folder is in use by {} ({}): two runs would overwrite each other's files. Wait for it, end it, or give "
      "this run another job.folder. Its lock is {}",
      holder, evidence, path);
}

void sleep_for(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

// Empty: the holder lives. Otherwise why it counts as dead.
std::string death_of(const Holder& holder, const std::string& path, const RunLock::Times& times) {
  if (holder.machine == this_machine()) {
    const std::uint64_t start = start_of(holder.process);
    if (start == holder.process_start) return "";
    return start == 0 ? "there is no such process any more" : "its process number is another process's now";
  }
  // Elsewhere. Silent long enough already, or from now on.
  const double age = age_of(path);
  if (age > times.silence + 2 * times.beat) return fmt::format("it gave no sign of life for {:.0f} s", age);
  const auto begin = std::chrono::steady_clock::now();
  for (;;) {
    sleep_for(std::min(times.beat, 0.5));
    const auto now = read_holder(path);
    if (now && (now->token != holder.token || now->beat != holder.beat)) return "";
    const double waited = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (waited > times.silence) return fmt::format("it gave no sign of life for {:.0f} s", waited + std::max(age, 0.0));
  }
}

}  // namespace

RunLock::RunLock(const std::string& folder, const Times& times)
    : path_((fs::path(folder) / "lock").string()), times_(times) {
  std::random_device random;
  token_ = fmt::format("{:08x}{:08x}", random(), random());
  Holder mine;
  mine.host = host_name();
  mine.process = getpid();
  text_ = nlohmann::ordered_json({{"host", mine.host},
                                  {"process", mine.process},
                                  {"machine", this_machine()},
                                  {"process_start", start_of(mine.process)},
                                  {"since", time_text(std::chrono::system_clock::now())},
                                  {"job", batch_job()},
                                  {"token", token_},
                                  {"beat", "0000000000"}})
              .dump();

  bool settles = false;  // another host may be taking it at the same moment, and flock does not tell
  for (int attempt = 0;; ++attempt) {
    const int descriptor = uninterrupted([&] { return ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666); });
    if (descriptor < 0) fail_system("open the lock", path_, -1, errno);
    descriptor_.reset(descriptor);
    const Flock flock = try_flock(descriptor, times_);
    struct stat opened {
    }, named{};
    // Its holder may have removed the file between our opening and our locking it.
    const bool same = ::fstat(descriptor, &opened) == 0 && ::stat(path_.c_str(), &named) == 0 &&
                      opened.st_ino == named.st_ino && opened.st_dev == named.st_dev;
    const auto holder = read_holder(path_);
    if ((!same || (flock == Flock::refused && !holder)) && attempt < 20) {
      sleep_for(0.1);
      continue;
    }
    if (!holder) {
      // New, or left empty by a holder that died before it wrote its name.
      if (flock == Flock::refused) refuse(path_, "a process that has not said its name", "flock is held");
      if (flock == Flock::absent) settles = true;
      break;
    }
    const bool here = holder->machine == this_machine();
    const std::string death = death_of(*holder, path_, times_);
    if (death.empty()) refuse(path_, holder->text(), here ? "its process lives" : "its lock's beat goes on");
    if (flock == Flock::refused) {
      // Of this machine: another run is taking it over just now. Of another: so may be, or the file server remembers
      // the lock of a client that is gone.
      if (here && attempt >= 20) refuse(path_, "a process that has not said its name", "flock is held");
      sleep_for(here ? 0.1 : std::min(1.0, times_.beat));
      const auto now = read_holder(path_);
      if (here || !now || now->token != holder->token) continue;
    }
    taken_over_ = fmt::format("took over the lock of {}: {}; tried: flock ({}), {}", holder->text(), death,
                              flock == Flock::taken    ? "free"
                              : flock == Flock::absent ? "this file system has none"
                                                       : "still held",
                              here ? "the process" : "its beat");
    settles = flock != Flock::taken || !here;
    if (flock != Flock::taken) replace();
    break;
  }
  write(0);
  if (settles) {
    sleep_for(std::min(1.0, times_.beat));
    if (token_in(folder) != token_) {
      const auto other = read_holder(path_);
      refuse(path_, other ? other->text() : "another run", "it took the lock at the same moment");
    }
  }
  beating_ = std::thread([this] { keep_beating(); });
}

RunLock::~RunLock() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  wake_.notify_all();
  if (beating_.joinable()) beating_.join();
  const auto holder = read_holder_or_none(path_);
  if (holder && holder->token == token_) ::unlink(path_.c_str());
}

void RunLock::Descriptor::reset(int descriptor) {
  if (value >= 0) ::close(value);
  value = descriptor;
}

void RunLock::require() const {
  if (!lost_.load(std::memory_order_relaxed)) return;
  const auto other = read_holder_or_none(path_);
  fail("the lock of the run folder, {}, is no longer this run's: {}. This run ends before it writes anything more",
       path_,
       other ? "it was taken over by " + other->text() + ", which heard nothing of this run for too long"
             : std::string("it was removed"));
}

std::string RunLock::token_in(const std::string& folder) {
  const auto holder = read_holder((fs::path(folder) / "lock").string());
  return holder ? holder->token : "";
}

// In place, so that flock stays on the file; every text is equally long.
void RunLock::write(std::int64_t beat) {
  std::string text = text_;
  text.replace(text.size() - 12, 10, fmt::format("{:010}", beat));
  text += '\n';
  write_fully(descriptor_.value, path_, 0, text.data(), static_cast<std::int64_t>(text.size()));
  if (beat == 0 && ::ftruncate(descriptor_.value, static_cast<off_t>(text.size())) != 0)
    fail_system("write the lock", path_, -1, errno);
}

// A new file in place of a dead holder's whose flock cannot be had.
void RunLock::replace() {
  const std::string fresh = path_ + ".new-" + token_;
  const int descriptor =
      uninterrupted([&] { return ::open(fresh.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666); });
  if (descriptor < 0) fail_system("create the lock", fresh, -1, errno);
  descriptor_.reset(descriptor);
  try_flock(descriptor, times_);
  write(0);
  if (::rename(fresh.c_str(), path_.c_str()) != 0) fail_system("rename the lock to", path_, -1, errno);
}

void RunLock::keep_beating() {
  std::unique_lock lock(mutex_);
  for (std::int64_t beat = 1; !wake_.wait_for(lock, std::chrono::duration<double>(times_.beat), [&] { return ends_; });
       ++beat) {
    // A failing file system is for the run's own writes to report; the lock is lost only when it is another's.
    std::error_code problem;
    const bool there = fs::exists(path_, problem);
    const auto holder = read_holder_or_none(path_);
    if ((!there && !problem) || (holder && holder->token != token_)) {
      lost_.store(true, std::memory_order_relaxed);
      return;
    }
    try {
      write(beat);
    } catch (const std::exception&) {
    }
  }
}

}  // namespace longhaul
