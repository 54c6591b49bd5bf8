#include "runtime/cpu/copy_thread.h"

#include <cstring>

#include "base/error.h"

namespace longhaul {

CopyThread::CopyThread() : slots_(16), thread_([this] { run(); }) {}

CopyThread::~CopyThread() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  started_.notify_one();
  thread_.join();
}

std::size_t CopyThread::queue(std::string_view name) {
  LONGHAUL_CHECK(name == "out" || name == "in", "no queue is called {}", name);
  return name == "in";
}

void CopyThread::reserve(std::size_t copies) {
  const std::lock_guard lock(mutex_);
  if (copies <= slots_.size()) return;
  std::vector<Copy> slots(copies);
  for (std::size_t i = 0; i < count_; ++i) slots[i] = slots_[(first_ + i) % slots_.size()];
  slots_ = std::move(slots);
  first_ = 0;
}

void CopyThread::start(std::size_t queue, void* to, const void* from, std::size_t bytes) {
  std::size_t room;
  {
    const std::lock_guard lock(mutex_);
    room = slots_.size() - count_;
  }
  if (room == 0) reserve(2 * slots_.size());  // only this thread makes it larger
  {
    const std::lock_guard lock(mutex_);
    slots_[(first_ + count_++) % slots_.size()] = {to, from, bytes, queue};
    ++counts_[queue].started;
  }
  started_.notify_one();
}

void CopyThread::wait(std::size_t queue) {
  std::unique_lock lock(mutex_);
  Counts& counts = counts_[queue];
  LONGHAUL_CHECK(counts.waited < counts.started, "a wait for a copy that was not started");
  ++counts.waited;
  done_.wait(lock, [&] { return counts.done >= counts.waited; });
}

void CopyThread::settle() {
  std::unique_lock lock(mutex_);
  done_.wait(lock, [&] { return count_ == 0; });
  for (Counts& counts : counts_) counts.waited = counts.started;
}

void CopyThread::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    started_.wait(lock, [&] { return count_ > 0 || ends_; });
    if (count_ == 0) return;
    const Copy copy = slots_[first_];
    lock.unlock();
    if (copy.bytes > 0) std::memcpy(copy.to, copy.from, copy.bytes);
    lock.lock();
    first_ = (first_ + 1) % slots_.size();
    --count_;
    ++counts_[copy.queue].done;
    done_.notify_one();
  }
}

}  // namespace longhaul
