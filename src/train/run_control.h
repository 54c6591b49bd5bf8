// When a run saves and stops besides what its steps say: signals and limits of time, decided by all ranks together.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>

#include "comm/communicator.h"
#include "config/experiment.h"

namespace longhaul {

class RunControl {
 public:
  using Clock = std::chrono::steady_clock;
  /// `start`: of the program, from which training.time_limit counts. `stop`: a flag that some rank's program sets, or
  /// null.
  RunControl(Communicator& world, const Experiment& experiment, Clock::time_point start,
             const std::atomic<bool>* stop = nullptr);

  struct Decision {
    bool save = false;  ///< checkpoint.minutes are over
    std::string stop;   ///< why the run stops here, for people; empty: it goes on
  };
  /// After each step; `seconds`: that it took. The same on all ranks, whatever arrived where. Ranks ask each other at
  /// steps of their own choice, about every 50 ms and at least every 64 steps: a signal waits no longer than that.
  Decision after(std::int64_t step, double seconds);
  /// Asks at once: before the first step, and before an export. Collective.
  Decision now();
  /// A checkpoint was written: checkpoint.minutes begin anew.
  void saved() { last_save_ = Clock::now(); }

 private:
  Decision ask(std::int64_t steps_to_next);

  Communicator& world_;
  const std::atomic<bool>* stop_;
  const Clock::time_point start_;
  const double limit_, minutes_;
  const bool limited_, timed_;  // a limit may be 0
  Clock::time_point last_save_;
  std::int64_t next_ = 0;  // the step after which ranks ask each other
  std::int64_t steps_to_next_ = 1;
};

}  // namespace longhaul
