#include "run/stop_signals.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>

#include "base/error.h"

namespace longhaul {
namespace {

constexpr std::array stopping = {SIGTERM, SIGINT, SIGUSR1, SIGHUP};

// A handler has no other way to the run than state of the process. One time for each signal, not "the last signal":
// Slurm sends CONT beside what it is asked for, and two may come at once.
std::atomic<bool> installed{false};
std::atomic<int> first_signal{0};
std::array<std::atomic<std::int64_t>, stopping.size()> received{};  // when, in milliseconds; 0: not yet
static_assert(std::atomic<std::int64_t>::is_always_lock_free && std::atomic<int>::is_always_lock_free);

std::int64_t milliseconds() noexcept {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1000000 + 1;
}

// Calls only what may be called in a handler.
extern "C" void note_signal(int signal) {
  const int error = errno;
  for (std::size_t i = 0; i < stopping.size(); ++i) {
    if (stopping[i] != signal) continue;
    std::int64_t before = 0;
    const std::int64_t now = milliseconds();
    if (received[i].compare_exchange_strong(before, now)) {
      int none = 0;
      first_signal.compare_exchange_strong(none, signal);
    } else if (signal != SIGHUP && now - before >= 100) {
      struct sigaction action {};
      action.sa_handler = SIG_DFL;
      sigaction(signal, &action, nullptr);
      raise(signal);  // takes effect when this handler returns
    }
  }
  errno = error;
}

}  // namespace

StopSignals::StopSignals() {
  LONGHAUL_CHECK(!installed.exchange(true), "two StopSignals at a time");
  first_signal = 0;
  for (auto& time : received) time = 0;
  // The kernel stores a signal's frame where the stack pointer is. oneDNN's generated products let it point into other
  // memory for a while (seen with 2.6, AVX-512): without a stack of its own one signal in some hundred spoilt the heap.
  stack_.resize(static_cast<std::size_t>(std::max<long>(sysconf(_SC_SIGSTKSZ), 64 << 10)));
  stack_t own{};
  own.ss_sp = stack_.data();
  own.ss_size = stack_.size();
  if (sigaltstack(&own, &former_stack_) != 0) fail("signals get no stack of their own: {}", std::strerror(errno));
  const auto set = [&](int signal, void (*handler)(int)) {
    struct sigaction action {};
    action.sa_handler = handler;
    action.sa_flags = SA_RESTART | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    Former former{signal, {}};
    sigaction(signal, &action, &former.action);
    former_.push_back(former);
    return former.action.sa_handler;
  };
  for (const int signal : stopping)
    if (set(signal, note_signal) == SIG_IGN && signal == SIGHUP) set(signal, SIG_IGN);
  set(SIGPIPE, SIG_IGN);
}

StopSignals::~StopSignals() {
  while (!former_.empty()) {  // the last first: one may have been set twice
    sigaction(former_.back().signal, &former_.back().action, nullptr);
    former_.pop_back();
  }
  (void)sigaltstack(&former_stack_, nullptr);
  installed = false;
}

int stop_signal() {
  return first_signal.load(std::memory_order_relaxed);
}

std::string signal_name(int signal) {
  switch (signal) {
    case SIGTERM:
      return "SIGTERM";
    case SIGINT:
      return "SIGINT";
    case SIGUSR1:
      return "SIGUSR1";
    case SIGHUP:
      return "SIGHUP";
    default:
      return fmt::format("signal {}", signal);
  }
}

}  // namespace longhaul
