// A rank's programs, ready to run on some target, and the buffers that they share: what a session, verification and the
// trainer see of a device. Buffers have names and are read and written by byte range; where they lie is the target's.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "runtime/activity.h"
#include "runtime/communication.h"

namespace longhaul {

/// Where the time of runs went, since profiling was switched on.
struct Profile {
  struct Row {
    double seconds = 0;
    std::int64_t calls = 0;
    double flops = 0;
  };
  std::map<std::string, Row> ops;  // by op name, collectives included
  CommunicationTimes communication;
};

/// One instruction, or what a queue did for one, with the time that it took.
struct TraceEvent {
  std::string_view program, op;  ///< of a queue the op without its half
  std::string_view queue;        ///< empty: the rank's own thread
  std::int64_t instruction = 0;
  double begin = 0, end = 0;  ///< seconds of the host's steady clock
};

/// One caller at a time. An unknown buffer, or a range beyond its end, is std::logic_error.
class Executor {
 public:
  virtual ~Executor() = default;

  /// Runs programs[i] of its construction; returns when what it wrote may be read.
  virtual void run(std::size_t program) = 0;

  /// Copies bytes [byte, byte + to.size()) of a named buffer: state, data, or what a program reports.
  virtual void read(std::string_view buffer, std::int64_t byte, std::span<std::byte> to) const = 0;
  virtual void write(std::string_view buffer, std::int64_t byte, std::span<const std::byte> from) = 0;
  virtual void zero(std::string_view buffer) = 0;
  /// The whole buffer where it lies, when the host can read and write it there; empty when it cannot, and read() and
  /// write() are the way. Saves a copy of what is large; nothing may depend on it.
  virtual std::span<std::byte> host_view(std::string_view buffer) = 0;

  /// A float64 buffer of one element.
  double scalar(std::string_view buffer) const;
  void set_scalar(std::string_view buffer, double value);

  /// Notes what such a buffer holds after all that has been run, without waiting for it where that can be avoided.
  virtual void keep_scalar(std::string_view buffer) { kept_.push_back(scalar(buffer)); }
  /// Everything noted since the last call, in order; waits for it.
  virtual std::vector<double> kept_scalars() { return std::exchange(kept_, {}); }

  /// What has been asked of a device of its own since the process began; nothing of the CPU.
  struct Work {
    std::int64_t launches = 0, allocations = 0, synchronisations = 0;
    /// Of whole programs (device.graphs), and launches that were in them, which are not among the others.
    std::int64_t graph_launches = 0, graph_parts = 0;
    Work operator-(const Work& before) const;
    /// "12 launches, 0 allocations and 1 synchronisations", and what graphs were launched, if any.
    std::string text() const;
  };
  virtual std::optional<Work> work() const { return std::nullopt; }

  /// Where the rank is in its programs, for whoever watches it: an executor enters every instruction.
  const Activity& activity() const { return activity_; }

  /// Memory that the rank's buffers take, as planned.
  virtual std::int64_t arena_bytes() const = 0;
  /// Host memory for values that programs move there, as planned.
  virtual std::int64_t host_arena_bytes() const = 0;

  /// Of all groups together, since the last reset.
  virtual Traffic traffic() const = 0;
  virtual void reset_traffic() = 0;

  /// Off at first. All ranks switch it together: while it is on, ranks wait for one another before every collective, so
  /// that waiting can be told from moving.
  virtual void set_profiling(bool on) = 0;
  virtual const Profile& profile() const = 0;

  /// Off at first. While it is on, runs are recorded; those of all queues when run() has returned. Executors that do
  /// not record give nothing.
  virtual void set_tracing(bool) {}
  virtual std::vector<TraceEvent> trace() const { return {}; }

 protected:
  Executor() = default;
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  Activity activity_;
  std::vector<double> kept_;
};

}  // namespace longhaul
