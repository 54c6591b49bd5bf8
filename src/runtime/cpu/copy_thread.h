// The thread that copies while a rank computes: what it is given goes in the order in which it came. A rank waits for
// the oldest copy of a queue that it has not waited for, so it names none; nobody spins.
#pragma once
#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string_view>
#include <thread>
#include <vector>

namespace longhaul {

class CopyThread {
 public:
  CopyThread();
  ~CopyThread();
  CopyThread(const CopyThread&) = delete;
  CopyThread& operator=(const CopyThread&) = delete;

  /// "out" and "in", as ops name them; another name is std::logic_error.
  static std::size_t queue(std::string_view name);

  /// Room for so many copies that nobody has waited for; more than there is room for allocate.
  void reserve(std::size_t copies);
  /// Copies `bytes` bytes some time before the wait for it returns; until then nobody else may write `from`, or read or
  /// write `to`.
  void start(std::size_t queue, void* to, const void* from, std::size_t bytes);
  /// Returns when the queue's oldest copy is done that was not waited for. std::logic_error when there is none.
  void wait(std::size_t queue);
  /// Returns when all is done that was started; afterwards nothing is left to wait for. For whoever gave up between.
  void settle();

 private:
  struct Copy {
    void* to;
    const void* from;
    std::size_t bytes;
    std::size_t queue;
  };
  struct Counts {
    std::uint64_t started = 0, done = 0, waited = 0;
  };
  void run();

  std::mutex mutex_;
  std::condition_variable started_, done_;
  std::vector<Copy> slots_;  // copies first_, ..., of count_, that are not done
  std::size_t first_ = 0, count_ = 0;
  std::array<Counts, 2> counts_;
  bool ends_ = false;
  std::thread thread_;  // last: it uses all the others
};

}  // namespace longhaul
