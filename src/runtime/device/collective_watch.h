// Looks on while a rank waits for its device and its device for other ranks: a peer that fails, an error that NCCL
// reports later, a collective in which the device stays too long. Any of them ends all communicators of the rank, so
// that the device comes free, and is thrown with the collective's name.
#pragma once
#include <chrono>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "comm/communicator.h"
#include "runtime/activity.h"
#include "runtime/device/kernel.h"
#include "runtime/device/tables.h"

namespace longhaul {

/// What may keep a device waiting for other ranks. It is told of by the watch of the rank.
class PeerWait {
 public:
  virtual ~PeerWait() = default;
  /// Throws Error with what has gone wrong since; waits for nothing.
  virtual void check() = 0;
  /// Lets the device go on, whatever state this is in. Called in a thread of its own; may not come back.
  virtual void abort() noexcept = 0;
};

/// A collective as errors and the watchdog name it; both must live until it is done.
struct NamedCollective {
  const std::string* name = nullptr;
  const Activity::Place* place = nullptr;
};

/// Where the device is among the collectives of a graph: its stream writes a word of host memory before and after each.
/// Events would not do: the host cannot tell which launch of the graph has recorded them.
class CollectiveTrack {
 public:
  /// For at most so many collectives.
  CollectiveTrack(DeviceContext& context, TableSpace& tables, std::size_t collectives);
  /// Captures that the device comes to place `at`: 0 before all collectives, 2 i + 1 before number i, 2 i + 2 after it.
  void mark(std::uint32_t at) const;
  /// What was last written.
  std::uint32_t at() const;

 private:
  friend class CollectiveWatch;
  DeviceContext& context_;
  const TableSpace& tables_;
  const std::size_t numbers_, most_;  // where they lie in device memory
  DeviceMemory word_;
  std::vector<NamedCollective> collectives_;
};

/// Carries the name of the collective.
class CollectiveFailure : public Error {
 public:
  using Error::Error;
};

class CollectiveWatch final : public DeviceWatch {
 public:
  /// Of the rank's device, which waits in its synchronize() by this from now on. `timeout`: seconds for one collective,
  /// 0: for ever. While the host waits `activity` is where the device stands. All must outlive it.
  CollectiveWatch(DeviceContext& context, Communicator& world, Activity& activity, double timeout);
  ~CollectiveWatch() override;
  CollectiveWatch(const CollectiveWatch&) = delete;

  /// Counted in until removed.
  void add(PeerWait* one) { all_.push_back(one); }
  void remove(PeerWait* one) { std::erase(all_, one); }

  /// Between the two the device is asked for one collective.
  void begin(const NamedCollective& collective);
  void end();

  /// Called before every instruction that is not captured: waits, as wait(), when the device is hundreds of them
  /// behind. A host that has filled the device's queue of launches is held in the driver, where it sees no lost rank.
  void keep_pace();

  /// Between the two a graph is captured: what begin() and end() are told of goes to its track.
  void begin_graph(CollectiveTrack& track);
  void end_graph() { captured_ = nullptr; }
  /// Looks after a launch of the graph, which `launches`.
  void launch(const CollectiveTrack& track, const std::function<void()>& launches);
  /// Called when communicators are ended, which NCCL's do not while a graph has calls of them: gives graphs back.
  void before_end(std::function<void()> give_back) { give_back_ = std::move(give_back); }

  /// Throws what Communicator::look does when another rank failed first, CollectiveFailure for what NCCL reports and
  /// when time is up.
  void wait(const std::function<bool()>& done) override;
  /// The same of something that the host waits for, for which `name` stands in errors; empty: the collective that is
  /// asked for now, if there is one.
  void wait(const std::function<bool()>& done, const std::string& name);

  /// Ends all communicators, once. When one does not end within ten seconds, the job does (end_job, exit_hung): nothing
  /// would free the device.
  void abort() noexcept;
  bool aborted() const { return aborted_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Asked {
    NamedCollective collective;  // of null: those of a graph
    void *before, *after;        // events
    const CollectiveTrack* track = nullptr;
    bool begun = false, ended = false;  // by the device; by end()
    std::uint32_t at = 0;               // what the track has said
  };
  void* take_event();
  void ask(const NamedCollective& collective, const CollectiveTrack* track);
  /// Forgets collectives that are done.
  void advance();
  /// The collective in which the device is, if it is in one.
  NamedCollective current() const;
  /// "in" that one, or "on its way to" the next that it was asked for, with the name; empty: it was asked for none.
  std::string standing() const;
  /// Throws what has happened; `name` as of wait().
  void look(const std::string* name, Clock::time_point since);

  DeviceContext& context_;
  Communicator& world_;
  Activity& activity_;
  const double timeout_;
  std::vector<PeerWait*> all_;
  std::vector<Asked> asked_;  // in the order of the stream; those before first_ are done
  std::size_t first_ = 0;
  std::vector<void*> events_, free_;
  std::deque<void*> marks_;  // events between instructions
  int unmarked_ = 0;         // instructions since the last
  Clock::time_point moved_;  // when the device last came to or out of a collective
  CollectiveTrack* captured_ = nullptr;
  std::function<void()> give_back_;
  bool aborted_ = false;
};

}  // namespace longhaul
