// Ranks as processes without an MPI: those that a launcher started, or that this process starts itself.
#include <fmt/ranges.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "comm/exchange.h"
#include "comm/launch.h"
#include "comm/launcher_size.h"
#include "comm/rank_message.h"
#include "comm/sockets/rendezvous.h"
#include "comm/sockets/sockets_communicator.h"

namespace longhaul {
namespace {

constexpr std::chrono::seconds patience{300};  // for all to come

constexpr std::array ending_signals = {SIGTERM, SIGINT, SIGUSR1, SIGUSR2, SIGHUP, SIGQUIT};

/// While it lives, signals that a run would stop after end the process: there is nothing yet that could be saved.
class EndingSignals {
 public:
  EndingSignals() {
    for (std::size_t i = 0; i < ending_signals.size(); ++i) {
      sigaction(ending_signals[i], nullptr, &former_[i]);
      if (former_[i].sa_handler == SIG_IGN) continue;
      struct sigaction ends {};
      ends.sa_handler = SIG_DFL;
      sigaction(ending_signals[i], &ends, nullptr);
    }
  }
  ~EndingSignals() {
    for (std::size_t i = 0; i < ending_signals.size(); ++i) sigaction(ending_signals[i], &former_[i], nullptr);
  }
  EndingSignals(const EndingSignals&) = delete;

 private:
  std::array<struct sigaction, ending_signals.size()> former_{};
};

int run_place(sockets::Place place, const std::function<int(Communicator&)>& body) {
  const int rank = place.rank, size = place.size;
  set_log_rank(rank, size);
  const auto mesh = [&] {
    const EndingSignals signals;
    return std::make_shared<sockets::Mesh>(rank, sockets::connect_all(std::move(place), patience));
  }();
  std::vector<int> all(static_cast<std::size_t>(size));
  std::iota(all.begin(), all.end(), 0);
  SocketsCommunicator world(mesh, std::move(all));
  try {
    const std::vector<int> results = all_gather(world, body(world));
    return *std::max_element(results.begin(), results.end());
  } catch (const PeerFailure& failure) {
    // The rank that failed prints its message.
    log_debug("rank {} stops: {}", rank, failure.what());
    world.abort(failure.what());
    return mesh->failure_code();
  } catch (const sockets::LostRank& error) {
    const std::string message = with_rank(rank, error.what());
    mesh->abort(message, exit_lost_rank);
    std::fprintf(stderr, "longhaul: %s\n", message.c_str());
    return exit_lost_rank;
  } catch (const std::logic_error& error) {
    world.abort(error.what());
    throw std::logic_error(with_rank(rank, error.what()));
  } catch (const std::exception& error) {
    world.abort(error.what());
    throw Error(with_rank(rank, error.what()));
  }
}

// ---- processes of this one

std::atomic<pid_t> children{0};  // their process group

extern "C" void pass_on(int signal) {
  const int error = errno;
  if (const pid_t group = children.load(); group > 0) ::kill(-group, signal);
  errno = error;
}

/// While it lives, what this process is told goes to the ranks.
class PassSignals {
 public:
  PassSignals() {
    for (std::size_t i = 0; i < passed.size(); ++i) {
      struct sigaction action {};
      action.sa_handler = pass_on;
      action.sa_flags = SA_RESTART;
      sigemptyset(&action.sa_mask);
      sigaction(passed[i], &action, &former_[i]);
    }
  }
  ~PassSignals() { restore(); }
  /// In a child too: it is told itself.
  void restore() const {
    children = 0;
    for (std::size_t i = 0; i < passed.size(); ++i) sigaction(passed[i], &former_[i], nullptr);
  }
  PassSignals(const PassSignals&) = delete;

 private:
  static constexpr const auto& passed = ending_signals;
  std::array<struct sigaction, passed.size()> former_{};
};

/// The largest exit code; 128 + its signal for a rank that was killed. When one has failed and others do not end in
/// that time, as one that is stopped does not, they are killed; after a tenth of it a line says who is waited for.
int wait_for(const std::vector<pid_t>& processes, std::chrono::milliseconds patience_with_others) {
  using Clock = std::chrono::steady_clock;
  int worst = 0;
  std::vector<bool> running(processes.size(), true);
  bool given_up = false, told = false;
  std::size_t left = processes.size();
  Clock::time_point first_failure{};
  while (left > 0) {
    int status = 0;
    const pid_t ended = ::waitpid(-children.load(), &status, worst == 0 ? 0 : WNOHANG);
    if (ended < 0 && errno == EINTR) continue;
    if (ended < 0) break;
    if (ended == 0) {
      const auto since = Clock::now() - first_failure;
      if (since > patience_with_others / 10 && !std::exchange(told, true)) {
        std::vector<std::string> others;
        for (std::size_t rank = 0; rank < processes.size(); ++rank)
          if (running[rank]) others.push_back(fmt::format("rank {} (process {})", rank, processes[rank]));
        std::fprintf(stderr,
                     "longhaul: a rank has failed; still there: %s; killed unless gone %.0f s after the failure\n",
                     fmt::format("{}", fmt::join(others, ", ")).c_str(),
                     std::chrono::duration<double>(patience_with_others).count());
      }
      if (since > patience_with_others) {
        ::kill(-children.load(), SIGKILL);
        given_up = true;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      continue;
    }
    --left;
    const auto rank = static_cast<std::size_t>(std::ranges::find(processes, ended) - processes.begin());
    running.at(rank) = false;
    if (given_up && WIFSIGNALED(status)) continue;  // by this process
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (WIFSIGNALED(status)) {
      std::fprintf(stderr, "longhaul: rank %d (process %d) was ended by signal %d (%s)\n", static_cast<int>(rank),
                   ended, WTERMSIG(status), strsignal(WTERMSIG(status)));
    }
    if (worst == 0 && code != 0) first_failure = Clock::now();
    worst = std::max(worst, code);
  }
  return worst;
}

}  // namespace

int run_sockets(const std::function<int(Communicator&)>& body) {
  return run_place(sockets::place_from_environment(), body);
}

int run_processes(int ranks, const std::function<int(Communicator&)>& body,
                  std::chrono::milliseconds patience_with_others) {
  if (ranks < 1) fail("a run needs at least one rank, not {}: give --ranks 1 or more", ranks);
  auto listener = sockets::listen_on(0);
  if (!listener) fail("no free port for the ranks to come together");
  const int port = sockets::port_of(*listener);
  const auto now = std::chrono::system_clock::now().time_since_epoch().count();
  const sockets::Token token = sockets::token_of(fmt::format("{} {} {}", ::getpid(), now, port));
  const PassSignals signals;
  std::fflush(nullptr);
  std::vector<pid_t> processes;
  for (int rank = 0; rank < ranks; ++rank) {
    const pid_t parent = ::getpid(), child = ::fork();
    if (child < 0) {
      const int error = errno;
      if (!processes.empty()) ::kill(-processes[0], SIGKILL);
      while (::wait(nullptr) > 0) {
      }
      fail("cannot start process {} of {}: {}; give fewer --ranks", rank, ranks, std::strerror(error));
    }
    // A group of their own: what a terminal sends comes once, from this process. Set on both sides, whoever is first.
    const pid_t group = rank == 0 ? 0 : processes[0];
    (void)::setpgid(child, child > 0 && rank == 0 ? child : group);
    if (child > 0) {
      processes.push_back(child);
      if (rank == 0) children = child;
      continue;
    }
    (void)::prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (::getppid() != parent) ::_exit(1);
    int code = 1;
    try {
      signals.restore();
      sockets::Place place{rank, ranks, "127.0.0.1", {port}, token, "--ranks"};
      if (rank == 0)
        place.listener = std::move(*listener);
      else
        listener.reset();
      code = run_place(std::move(place), body);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "longhaul: %s\n", error.what());
    }
    std::fflush(nullptr);
    ::_exit(code);
  }
  listener.reset();
  return wait_for(processes, patience_with_others);
}

}  // namespace longhaul
