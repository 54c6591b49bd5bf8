// A link of any speed on any machine: a communicator whose collectives take as long as on a link of a given latency and
// bandwidth, by timers and without a processor's time. For measurements of what runs beside communication.
#pragma once
#include <memory>
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

/// Carries out every data call on `inner` and returns no sooner than latency · log2(size), rounded up, and the bytes
/// that leave this rank (Traffic) / bandwidth after the last member has come to it. Barriers and broadcasts are as they
/// are. Sums and results are those of `inner`.
std::unique_ptr<Communicator> delayed(std::unique_ptr<Communicator> inner, const LinkDelay& delay);

}  // namespace longhaul
