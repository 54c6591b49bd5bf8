#include "runtime/cpu/communication_thread.h"

#include "base/error.h"
#include "base/log.h"

namespace longhaul {

CommunicationThread::CommunicationThread(int log_rank, int log_ranks)
    : tasks_(16), thread_([this, log_rank, log_ranks] { run(log_rank, log_ranks); }) {}

CommunicationThread::~CommunicationThread() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  started_.notify_one();
  thread_.join();
}

void CommunicationThread::reserve(std::size_t tasks) {
  const std::lock_guard lock(mutex_);
  LONGHAUL_CHECK(start_count_ == done_count_, "room is made while collectives are under way");
  if (tasks > tasks_.size()) tasks_.resize(tasks);
}

std::uint64_t CommunicationThread::start(const Task& task) {
  std::uint64_t ticket = 0;
  {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&] { return start_count_ - done_count_ < tasks_.size(); });
    tasks_[start_count_ % tasks_.size()] = task;
    ticket = ++start_count_;
  }
  started_.notify_one();
  return ticket;
}

void CommunicationThread::wait(std::uint64_t ticket) {
  std::unique_lock lock(mutex_);
  LONGHAUL_CHECK(ticket > 0 && ticket <= start_count_, "a wait for a collective that was not started");
  done_.wait(lock, [&] { return done_count_ >= ticket; });
  if (failure_) std::rethrow_exception(failure_);
}

void CommunicationThread::wait_for_all() {
  std::uint64_t last = 0;
  {
    const std::lock_guard lock(mutex_);
    last = start_count_;
  }
  if (last > 0) wait(last);
}

void CommunicationThread::settle() noexcept {
  std::unique_lock lock(mutex_);
  done_.wait(lock, [&] { return done_count_ == start_count_; });
  failure_ = nullptr;
}

void CommunicationThread::run(int log_rank, int log_ranks) {
  set_log_rank(log_rank, log_ranks);
  std::unique_lock lock(mutex_);
  while (true) {
    started_.wait(lock, [&] { return done_count_ < start_count_ || ends_; });
    if (done_count_ == start_count_) return;
    const Task task = tasks_[done_count_ % tasks_.size()];
    if (!failure_) {
      lock.unlock();
      std::exception_ptr failure;
      try {
        task.run(task.of);
      } catch (...) {
        failure = std::current_exception();
      }
      lock.lock();
      failure_ = failure;
    }
    ++done_count_;
    done_.notify_all();
  }
}

}  // namespace longhaul
