#include "comm/threads/world.h"

#include <new>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "comm/threads/threads_communicator.h"

namespace longhaul {

std::vector<std::unique_ptr<Communicator>> ThreadsWorld::communicators() {
  std::vector<int> all(static_cast<std::size_t>(size_));
  std::iota(all.begin(), all.end(), 0);
  std::vector<std::unique_ptr<Communicator>> result;
  // Every group has members, so the key with an empty list is the world's alone.
  for (int rank = 0; rank < size_; ++rank)
    result.push_back(std::make_unique<ThreadsCommunicator>(join({0, {}, 0}, all), rank));
  return result;
}

void ThreadsWorld::fail(Failure failure) noexcept {
  const std::lock_guard lock(mutex_);
  try {
    if (!failed()) message_ = failure.message;
  } catch (const std::bad_alloc&) {
    // The others stop all the same, with an empty message.
  }
  if (reported_.rank < 0 || (reported_.peer && !failure.peer)) reported_ = std::move(failure);
  failed_.store(true, std::memory_order_release);
  for (const auto& entry : groups_)
    if (const auto group = entry.lock()) group->wake();
}

void ThreadsWorld::throw_peer_failure() {
  const std::lock_guard lock(mutex_);
  throw PeerFailure(message_);
}

ThreadsWorld::Failure ThreadsWorld::failure() {
  const std::lock_guard lock(mutex_);
  return reported_;
}

std::shared_ptr<ThreadsGroup> ThreadsWorld::join(const Key& key, const std::vector<int>& world_ranks) {
  const std::lock_guard lock(mutex_);
  if (failed()) throw PeerFailure(message_);
  Forming& forming = forming_[key];
  if (!forming.group) {
    forming.group = std::make_shared<ThreadsGroup>(*this, next_group_++, world_ranks);
    std::erase_if(groups_, [](const auto& entry) { return entry.expired(); });
    groups_.push_back(forming.group);
  }
  auto group = forming.group;
  if (++forming.joined == world_ranks.size()) forming_.erase(key);
  return group;
}

ThreadsGroup::ThreadsGroup(ThreadsWorld& world, std::uint64_t id, std::vector<int> world_ranks)
    : world_(world), id_(id), world_ranks_(std::move(world_ranks)), slots_(world_ranks_.size()) {}

/// Under the mutex: true for the last member to come, which lets the others go.
bool ThreadsGroup::arrive() {
  if (++arrived_ < size()) return false;
  arrived_ = 0;
  ++generation_;
  all_here_.notify_all();
  return true;
}

void ThreadsGroup::enter(const ThreadsCall& call) {
  std::unique_lock lock(mutex_);
  if (!world_.failed()) {
    if (arrived_ == 0) call_ = call;
    LONGHAUL_CHECK(call == call_,
                   "ranks of one group make different calls: {} of {} (root or type {}), another rank {} of {} ({})",
                   name_of(call.kind), call.amount, call.detail, name_of(call_.kind), call_.amount, call_.detail);
    const std::uint64_t mine = generation_;
    if (arrive()) return;
    all_here_.wait(lock, [&] { return generation_ != mine || world_.failed(); });
    // Whoever saw the failure first left `arrived_` short for good, so nobody passes after it.
    if (generation_ != mine) return;
  }
  lock.unlock();
  world_.throw_peer_failure();
}

void ThreadsGroup::meet() {
  std::unique_lock lock(mutex_);
  const std::uint64_t mine = generation_;
  if (arrive()) return;
  all_here_.wait(lock, [&] { return generation_ != mine; });
}

void ThreadsGroup::wake() {
  // Taking the mutex orders this after the test of a member that is about to wait.
  const std::lock_guard lock(mutex_);
  all_here_.notify_all();
}

}  // namespace longhaul
