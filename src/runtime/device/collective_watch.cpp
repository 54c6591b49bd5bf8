#include "runtime/device/collective_watch.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <numeric>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "comm/launch.h"

namespace longhaul {
namespace {

constexpr std::chrono::microseconds shortest_pause{20}, longest_pause{500};
constexpr std::chrono::milliseconds between_looks{2};
constexpr std::chrono::seconds patience{10};  // with the end of a communicator
constexpr std::size_t many = 256;             // collectives after which those that are done are looked for
// The driver keeps some thousand launches of a stream; an instruction is one to ten.
constexpr int between_marks = 32;
constexpr std::size_t most_marks = 3;

}  // namespace

CollectiveTrack::CollectiveTrack(DeviceContext& context, TableSpace& tables, std::size_t collectives)
    : context_(context),
      tables_(tables),
      numbers_([&] {
        std::vector<std::uint32_t> all(2 * collectives + 1);
        std::iota(all.begin(), all.end(), 0u);
        return tables.add(all.data(), all.size() * sizeof all[0]);
      }()),
      most_(collectives),
      word_(context.device(), DeviceMemory::Place::host, sizeof(std::uint32_t)) {
  std::memset(word_.data(), 0, word_.bytes());
  collectives_.reserve(collectives);
}

void CollectiveTrack::mark(std::uint32_t at) const {
  LONGHAUL_CHECK(at <= 2 * most_, "a graph with more collectives than its program");
  context_.succeed(
      context_.api().copy(word_.data(), tables_.at(numbers_ + at * sizeof at), sizeof at, context_.stream()));
}

std::uint32_t CollectiveTrack::at() const {
  return __atomic_load_n(reinterpret_cast<const std::uint32_t*>(word_.data()), __ATOMIC_RELAXED);
}

CollectiveWatch::CollectiveWatch(DeviceContext& context, Communicator& world, Activity& activity, double timeout)
    : context_(context), world_(world), activity_(activity), timeout_(timeout), moved_(Clock::now()) {
  context.device().set_watch(this);
}

CollectiveWatch::~CollectiveWatch() {
  context_.device().set_watch(nullptr);
  if (context_.api().device_select(context_.device().number()) == 0)
    for (void* event : events_) context_.api().event_destroy(event);
}

void* CollectiveWatch::take_event() {
  if (free_.empty()) {
    void* made = nullptr;
    context_.succeed(context_.api().event_create(&made));
    events_.push_back(made);
    return made;
  }
  void* const event = free_.back();
  free_.pop_back();
  return event;
}

void CollectiveWatch::ask(const NamedCollective& collective, const CollectiveTrack* track) {
  if (asked_.size() - first_ >= many) advance();
  if (asked_.size() == first_) moved_ = Clock::now();
  asked_.push_back({collective, take_event(), take_event(), track});
  context_.succeed(context_.api().event_record(asked_.back().before, context_.stream()));
}

void CollectiveWatch::begin(const NamedCollective& collective) {
  if (!captured_) return ask(collective, nullptr);
  captured_->collectives_.push_back(collective);
  captured_->mark(static_cast<std::uint32_t>(2 * captured_->collectives_.size() - 1));
}

void CollectiveWatch::keep_pace() {
  if (++unmarked_ < between_marks) return;
  unmarked_ = 0;
  marks_.push_back(take_event());
  context_.succeed(context_.api().event_record(marks_.back(), context_.stream()));
  if (marks_.size() <= most_marks) return;
  wait([&] {
    std::int32_t done = 0;
    context_.succeed(context_.api().event_query(marks_.front(), &done));
    return done != 0;
  });
  free_.push_back(marks_.front());
  marks_.pop_front();
}

void CollectiveWatch::begin_graph(CollectiveTrack& track) {
  track.collectives_.clear();
  track.mark(0);
  captured_ = &track;
}

void CollectiveWatch::launch(const CollectiveTrack& track, const std::function<void()>& launches) {
  ask({}, &track);
  launches();
  end();
}

void CollectiveWatch::end() {
  if (captured_) return captured_->mark(static_cast<std::uint32_t>(2 * captured_->collectives_.size()));
  context_.succeed(context_.api().event_record(asked_.back().after, context_.stream()));
  asked_.back().ended = true;
}

void CollectiveWatch::advance() {
  if (captured_) return;  // the device is asked nothing meanwhile
  const auto reached = [&](void* event) {
    std::int32_t done = 0;
    context_.succeed(context_.api().event_query(event, &done));
    return done != 0;
  };
  for (; first_ < asked_.size(); ++first_) {
    Asked& one = asked_[first_];
    if (!one.begun) {
      if (!reached(one.before)) return;
      one.begun = true;
      moved_ = Clock::now();
    }
    if (one.track && std::exchange(one.at, one.track->at()) != one.at) moved_ = Clock::now();
    if (!one.ended || !reached(one.after)) return;
    moved_ = Clock::now();
    free_.push_back(one.before);
    free_.push_back(one.after);
  }
  asked_.clear();
  first_ = 0;
}

NamedCollective CollectiveWatch::current() const {
  if (first_ == asked_.size() || !asked_[first_].begun) return {};
  const Asked& one = asked_[first_];
  if (!one.track) return one.collective;
  return one.at % 2 == 1 ? one.track->collectives_.at(one.at / 2) : NamedCollective();
}

std::string CollectiveWatch::standing() const {
  if (const NamedCollective here = current(); here.name) return "in " + *here.name;
  for (std::size_t i = first_; i < asked_.size(); ++i) {
    const Asked& one = asked_[i];
    if (!one.track) return "on its way to " + *one.collective.name;
    if (one.at / 2 < one.track->collectives_.size())
      return "on its way to " + *one.track->collectives_[one.at / 2].name;
  }
  return "";
}

void CollectiveWatch::look(const std::string* name, Clock::time_point since) {
  try {
    world_.look();
  } catch (...) {
    // The error is that rank's, or says only who is gone.
    if (const std::string where = standing(); !where.empty())
      spdlog::warn("another rank has failed or is gone; the device of this rank was {}", where);
    abort();
    throw;
  }
  if (const NamedCollective here = current(); here.name) name = here.name, since = moved_;
  const std::string where = name ? *name + ": " : "";
  for (PeerWait* one : all_) try {
      one->check();
    } catch (const Error& error) {
      abort();
      throw CollectiveFailure(where + error.what());
    }
  if (!name || timeout_ == 0 || std::chrono::duration<double>(Clock::now() - since).count() <= timeout_) return;
  abort();
  throw CollectiveFailure(fmt::format(
      "{}not done {} seconds after the device of this rank came to it (device.timeout): another rank of the "
      "group has not come, stands still or is gone",
      where, timeout_));
}

void CollectiveWatch::wait(const std::function<bool()>& done, const std::string& name) {
  const std::string* const named =
      !name.empty() ? &name
      : captured_   ? (captured_->collectives_.empty() ? nullptr : captured_->collectives_.back().name)
      : !asked_.empty() && !asked_.back().ended ? asked_.back().collective.name
                                                : nullptr;
  const Activity::Place* const host = activity_.place.load(std::memory_order_relaxed);
  const Activity::Place* shown = host;
  const auto begin = Clock::now();
  auto looked = begin;
  std::chrono::microseconds pause = shortest_pause;
  const auto finished = [&] {
    try {
      return done();
    } catch (const Error& error) {
      abort();
      if (!named) throw;
      throw CollectiveFailure(*named + ": " + error.what());
    }
  };
  while (!finished()) {
    std::this_thread::sleep_for(pause);
    pause = std::min(longest_pause, pause * 5 / 4);
    if (Clock::now() - looked < between_looks) continue;
    looked = Clock::now();
    advance();
    const Activity::Place* const device = current().place;
    if (const auto* place = device ? device : host; place != shown) activity_.enter(shown = place);
    look(named, begin);
  }
  if (shown != host) activity_.enter(host);
}

void CollectiveWatch::wait(const std::function<bool()>& done) {
  wait(done, "");
  advance();
}

void CollectiveWatch::abort() noexcept {
  if (std::exchange(aborted_, true)) return;
  // Each in a thread of its own: one that does not come back must not keep the others.
  struct Left {
    std::mutex mutex;
    std::condition_variable none;
    std::size_t count;
  };
  try {
    const auto left = std::make_shared<Left>();
    left->count = all_.size();
    for (PeerWait* one : all_)
      std::thread([left, one] {
        one->abort();
        const std::lock_guard lock(left->mutex);
        if (--left->count == 0) left->none.notify_all();
      }).detach();
    if (give_back_) give_back_();
    std::unique_lock lock(left->mutex);
    if (left->none.wait_for(lock, patience, [&] { return left->count == 0; })) return;
  } catch (const std::exception& error) {  // no thread to be had
    spdlog::warn("communicators of the device cannot be ended: {}", error.what());
  }
  spdlog::warn("a communicator of the device does not end within {} seconds; the job ends", patience.count());
  end_job(world_, exit_hung);
}

}  // namespace longhaul
