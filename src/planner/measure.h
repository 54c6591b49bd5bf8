// Seconds of single programs and of collectives, on all ranks at once.
#pragma once
#include <cstddef>
#include <string>

#include "comm/communicator.h"
#include "cost/profile.h"
#include "runtime/target.h"

namespace longhaul {

class Measure {
 public:
  /// `patience`: seconds that a program is repeated for.
  Measure(Communicator& world, Target& target, double patience) : world_(world), target_(target), patience_(patience) {}

  /// Of the fastest run of a graph, as text (docs/ir.md) without collectives, on the slowest rank. Its data are small
  /// numbers, its `index` counts from 0. Collective.
  double seconds(const std::string& graph);

  /// Latency by messages of 64 bytes, bandwidth by messages of `bytes` from each rank. Collective over the group.
  LinkProfile link(Communicator& group, std::size_t bytes);

 private:
  Communicator& world_;
  Target& target_;
  const double patience_;
};

}  // namespace longhaul
