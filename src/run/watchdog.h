// Sees a hang and says who is missing. Each rank has a thread that looks twice a second at where the rank is; a rank
// that does not move for many times the median step writes its place into a file in <run folder>/watch, and from those
// files the lowest such rank tells who waits in which instruction, and which ranks have not come. Nothing is sent
// between ranks and nothing is written as long as steps go on, so any transport can be watched, and a step costs two
// stores to memory an instruction.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "comm/communicator.h"
#include "comm/launch.h"
#include "runtime/activity.h"

namespace longhaul {

class Watchdog {
 public:
  struct Times {
    double timeout = 1800;  ///< seconds without any move of a rank after which the job ends; 0: never
    double step = 5;        ///< a report comes after so many seconds without a move, or
    double medians = 5;     ///< after so many median steps, whichever is later
    double elsewhere = 20;  ///< after so many in the first step, in a set-up, a save or a validation
    double look = 0.5;      ///< seconds between looks
  };

  /// `folder`: the run folder, the same for all ranks. `end` is called in the watchdog's thread when the timeout is
  /// over and must end the job; empty: end_job with exit_hung. Collective (ranks tell their hosts and processes).
  Watchdog(Communicator& world, const std::string& folder, const Times& times, std::function<void()> end = {});
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;

  /// Where the rank runs its programs; `activity` must outlive the watchdog.
  void watch(const Activity& activity) { activity_.store(&activity, std::memory_order_release); }

  /// What the rank does from now on when it runs no program ("saving a checkpoint"; a literal); null: steps.
  void phase(const char* what);
  /// The rank finished a step, which took so long. Says when that was many times the median.
  void finished_step(std::int64_t step, double seconds);

 private:
  struct Place {
    std::uint64_t moves = 0;
    std::int64_t step = 0;
    const Activity::Place* program = nullptr;
    const char* phase = nullptr;
    bool operator==(const Place&) const = default;
  };
  Place place() const;
  double patience(const Place& place) const;
  void look_on();
  void write_place(const Place& place, double seconds) const;
  /// The report of the lowest rank that has written its place; empty for the others. `seconds`: without a move.
  std::string report(double seconds) const;
  std::string state_of(int rank) const;
  std::string file_of(int rank) const;

  const int rank_;
  const std::string folder_;
  const Times times_;
  std::function<void()> end_;
  std::vector<std::string> hosts_;
  std::vector<std::int64_t> processes_;

  std::atomic<const Activity*> activity_{nullptr};
  std::atomic<const char*> phase_{nullptr};
  std::atomic<std::uint64_t> phases_{0};
  std::atomic<std::int64_t> step_{0};
  std::atomic<double> median_{0};  // seconds; 0: no step yet
  std::vector<double> recent_;     // seconds of the last steps, in a circle
  std::size_t next_recent_ = 0;

  std::mutex mutex_;
  std::condition_variable wake_;
  bool ends_ = false;
  std::thread thread_;
};

}  // namespace longhaul
