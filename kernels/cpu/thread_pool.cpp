#include "kernels/cpu/thread_pool.h"

#include <stdexcept>

#include "base/error.h"

namespace longhaul {

// How a job ends without waiting for sleepers: a worker enters through the gate, and only while it is open may it look
// at the job. run() returns when the gate is closed and nobody is inside, so a worker that wakes late finds it closed
// and goes back to sleep, and no job waits for a thread that has not begun to help.

ThreadPool::ThreadPool(int threads) {
  LONGHAUL_CHECK(threads >= 1, "a pool of {} threads", threads);
  workers_.reserve(static_cast<std::size_t>(threads - 1));
  for (int thread = 1; thread < threads; ++thread) workers_.emplace_back([this, thread] { worker(thread); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (auto& thread : workers_) thread.join();
}

void ThreadPool::run(std::int64_t tasks, Body body) {
  if (tasks <= 0) return;
  if (running_.exchange(true, std::memory_order_acquire))
    throw std::logic_error("ThreadPool::run called while the pool runs another job");
  struct Release {
    std::atomic<bool>& flag;
    ~Release() { flag.store(false, std::memory_order_release); }
  } release{running_};
  if (workers_.empty() || tasks == 1) {
    for (std::int64_t task = 0; task < tasks; ++task) body(task, 0);
    return;
  }
  body_ = &body;
  tasks_ = tasks;
  exception_ = nullptr;
  next_.store(0, std::memory_order_relaxed);
  gate_.fetch_or(open, std::memory_order_release);
  generation_.fetch_add(1, std::memory_order_release);
  if (tasks - 1 >= static_cast<std::int64_t>(workers_.size()))
    generation_.notify_all();
  else
    for (std::int64_t woken = 1; woken < tasks; ++woken) generation_.notify_one();
  work(0);
  std::uint32_t inside = gate_.fetch_and(~open, std::memory_order_acq_rel) & ~open;
  while (inside != 0) {
    gate_.wait(inside, std::memory_order_acquire);
    inside = gate_.load(std::memory_order_acquire);
  }
  if (exception_) std::rethrow_exception(std::exchange(exception_, nullptr));
}

void ThreadPool::work(int thread) {
  for (;;) {
    const std::int64_t task = next_.fetch_add(1, std::memory_order_relaxed);
    if (task >= tasks_) return;
    try {
      (*body_)(task, thread);
    } catch (...) {
      const std::lock_guard lock(exception_mutex_);
      if (!exception_) exception_ = std::current_exception();
      next_.store(tasks_, std::memory_order_relaxed);
    }
  }
}

void ThreadPool::worker(int thread) {
  std::uint32_t seen = 0;
  for (;;) {
    generation_.wait(seen, std::memory_order_acquire);
    seen = generation_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_relaxed)) return;
    if (gate_.fetch_add(1, std::memory_order_acq_rel) & open) work(thread);
    if (gate_.fetch_sub(1, std::memory_order_acq_rel) == 1) gate_.notify_one();  // closed, and the last one out
  }
}

}  // namespace longhaul
