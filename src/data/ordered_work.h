// Pieces of work that come in order, are done by several threads, and are given back in order.
#pragma once
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

namespace longhaul {

/// `source` gives the next piece, nothing at the end; it is called by a thread of its own, at most `ahead` pieces
/// before the one that next() gives. `work(piece, i)` turns pieces into results; i < `threads` tells who works, and
/// nobody else works as i at the same time. The thread that calls next() works too, as 0, when it would have to wait:
/// with one thread nothing but `source` runs beside it. What either throws comes out of next() where the piece would
/// have, and after it nothing is read or begun. Nobody waits in a loop.
template <typename Piece, typename Result>
class OrderedWork {
 public:
  OrderedWork(int threads, std::size_t ahead, std::function<std::optional<Piece>()> source,
              std::function<Result(Piece&, int)> work)
      : ahead_(ahead), source_(std::move(source)), work_(std::move(work)) {
    threads_.emplace_back([this] { read(); });
    for (int i = 1; i < threads; ++i) threads_.emplace_back([this, i] { help(i); });
  }
  ~OrderedWork() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    for (auto& thread : threads_) thread.join();
  }
  OrderedWork(const OrderedWork&) = delete;
  OrderedWork& operator=(const OrderedWork&) = delete;

  /// The next piece and its result; nothing at the end.
  std::optional<std::pair<Piece, Result>> next() {
    std::unique_lock lock(mutex_);
    for (;;) {
      if (!items_.empty() && items_.front()->done) break;
      if (Item* item = take()) {
        run(*item, 0, lock);
      } else if (items_.empty() && ended_) {
        return {};
      } else {
        changed_.wait(lock);
      }
    }
    const std::unique_ptr<Item> item = std::move(items_.front());
    items_.pop_front();
    if (begun_ > 0) --begun_;  // nobody begins what reading threw
    changed_.notify_all();
    if (item->error) {
      stop_ = true;
      std::rethrow_exception(item->error);
    }
    return std::pair(std::move(*item->piece), std::move(*item->result));
  }

 private:
  struct Item {
    std::optional<Piece> piece;
    std::optional<Result> result;
    std::exception_ptr error;
    bool done = false;
  };

  /// The first item that nobody has begun. items_ before begun_ are somebody's.
  Item* take() {
    while (begun_ < items_.size() && items_[begun_]->done) ++begun_;  // what reading threw
    return begun_ < items_.size() && !stop_ ? items_[begun_++].get() : nullptr;
  }
  void run(Item& item, int who, std::unique_lock<std::mutex>& lock) {
    lock.unlock();
    try {
      item.result.emplace(work_(*item.piece, who));
    } catch (...) {
      item.error = std::current_exception();
    }
    lock.lock();
    item.done = true;
    changed_.notify_all();
  }
  void help(int who) {
    std::unique_lock lock(mutex_);
    while (!stop_) {
      if (Item* item = take())
        run(*item, who, lock);
      else if (ended_)
        return;
      else
        changed_.wait(lock);
    }
  }
  void read() {
    std::unique_lock lock(mutex_);
    while (!stop_ && !ended_) {
      if (items_.size() >= ahead_) {
        changed_.wait(lock);
        continue;
      }
      lock.unlock();
      auto item = std::make_unique<Item>();
      try {
        item->piece = source_();
      } catch (...) {
        item->error = std::current_exception();
        item->done = true;
      }
      lock.lock();
      ended_ = item->error || !item->piece;
      if (item->error || item->piece) items_.push_back(std::move(item));
      changed_.notify_all();
    }
  }

  const std::size_t ahead_;
  const std::function<std::optional<Piece>()> source_;
  const std::function<Result(Piece&, int)> work_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::unique_ptr<Item>> items_;  // in order; the front is what next() gives
  std::size_t begun_ = 0;                    // so many of them
  bool stop_ = false, ended_ = false;

  std::vector<std::thread> threads_;
};

}  // namespace longhaul
