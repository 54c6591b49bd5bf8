// A machine of round numbers: times can be worked out by hand.
#pragma once
#include "cost/profile.h"

namespace longhaul::test {

inline constexpr const char* simple_profile_text = R"({
  "name": "round",
  "about": "a machine of round numbers",
  "memory": {"ranks_per_host": 2, "device_bytes": 1e9, "host_bytes": 4e9, "source": "assumed"},
  "execution": {"launch_seconds": 0, "bytes_per_second": 1e10, "source": "assumed too"},
  "products": {
    "bfloat16": {"peak_flops": 1e12, "efficiency": [[0, 0.5], [1e6, 1]], "source": "assumed"},
    "float32": {"peak_flops": 5e11, "efficiency": [[0, 1]], "source": "assumed"}
  },
  "attention": {"bfloat16": {"forward_flops": [[8, 1e11]], "backward_flops": [[8, 5e10]], "tile_keys": 1, "source": "assumed"},
    "float32": {"forward_flops": [[8, 1e11]], "backward_flops": [[8, 5e10]], "tile_keys": 1, "source": "assumed"}},
  "links": {
    "host": {"latency_seconds": 0.001, "bytes_per_second": 1e9, "reducing_bytes_per_second": 5e8, "source": "assumed"},
    "network": {"latency_seconds": 0.01, "bytes_per_second": 1e8, "source": "assumed"}
  }
})";

inline MachineProfile simple_profile() {
  return parse_profile(simple_profile_text, "round.json");
}

}  // namespace longhaul::test
