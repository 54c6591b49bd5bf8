// A link of any speed on any machine: a communicator whose collectives take as long as on a link of a given latency and
// bandwidth, by timers and without a processor's time. For measurements of what runs beside communication.
#pragma once
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>

#include "comm/communicator.h"

namespace longhaul {

struct LinkDelay {
  double latency = 0;    ///< seconds, for each doubling of the group
  double bandwidth = 1;  ///< bytes a second that leave a rank
};

/// "LATENCY:BANDWIDTH", in seconds and bytes a second, as LONGHAUL_DELAY has it. Throws Error for anything else.
LinkDelay parse_link_delay(std::string_view text);
/// That of LONGHAUL_DELAY; none when it is not set.
std::optional<LinkDelay> link_delay();

/// What a rank's data goes over, of all its groups: one message after the other. Threads may share it.
class DelayedWire {
 public:
  explicit DelayedWire(const LinkDelay& delay) : delay_(delay) {}
  using Time = std::chrono::steady_clock::time_point;
  /// When a message that begins at `begin`, or when the wire is free, has gone over it: it takes latency · doublings
  /// and bytes / bandwidth.
  Time send(Time begin, int doublings, std::int64_t bytes);

 private:
  const LinkDelay delay_;
  std::mutex mutex_;
  Time free_{};
};

/// Carries out every data call on `inner` and returns no sooner than the bytes that leave this rank (Traffic), with the
/// latency of log2(size) doublings, rounded up, have gone over the rank's wire after the last member has come to it.
/// Barriers and broadcasts are as they are. Sums and results are those of `inner`.
std::unique_ptr<Communicator> delayed(std::unique_ptr<Communicator> inner, std::shared_ptr<DelayedWire> wire);

}  // namespace longhaul
