// The thread that carries out a rank's collectives on a link while the rank computes: what it is given goes in the
// order in which it came, one after the other. Nobody spins.
#pragma once
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace longhaul {

class CommunicationThread {
 public:
  /// `log_rank` of `log_ranks`: whose log lines it writes.
  CommunicationThread(int log_rank, int log_ranks);
  /// Waits for all that was started.
  ~CommunicationThread();
  CommunicationThread(const CommunicationThread&) = delete;
  CommunicationThread& operator=(const CommunicationThread&) = delete;

  /// What is carried out: run(of).
  struct Task {
    void (*run)(void* of) = nullptr;
    void* of = nullptr;
  };
  /// Room for so many tasks that are not done; more than there is room for allocate. Not while any is.
  void reserve(std::size_t tasks);
  /// Returns at once, with a ticket for wait(). Until that has returned nobody else may touch what the task does.
  std::uint64_t start(const Task& task);
  /// Returns when the task of this ticket is done, and with it all before it. Throws what the first task threw that did
  /// not succeed; none after that one is carried out.
  void wait(std::uint64_t ticket);
  /// For all that was started so far.
  void wait_for_all();
  /// Returns when nothing is left to do; throws nothing. For whoever gave up between: what has failed is forgotten.
  void settle() noexcept;

 private:
  void run(int log_rank, int log_ranks);

  std::mutex mutex_;
  std::condition_variable started_, done_;
  std::vector<Task> tasks_;  // reused in turn: those from done_count_ on are not done
  std::uint64_t start_count_ = 0, done_count_ = 0;
  std::exception_ptr failure_;
  bool ends_ = false;
  std::thread thread_;  // last: it uses all the others
};

}  // namespace longhaul
