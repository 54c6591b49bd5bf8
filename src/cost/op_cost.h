// Seconds of one op on one rank of a machine that a profile describes. A prediction, from shapes and layouts alone: by
// FLOPs or bytes, whichever takes longer; of collectives by their bytes on the slowest link that they cross.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <string_view>

#include "cost/profile.h"
#include "ir/graph.h"

namespace longhaul {

/// What an op's time is spent on.
enum class Work : std::uint8_t { products, attention, memory, host_links, network };
inline constexpr int works = 5;
/// "matrix products", ...
std::string_view name_of(Work work);

struct OpCost {
  Work work = Work::memory;
  double seconds = 0;
};

/// What an op reads and writes on a rank, in bytes (OpDefinition::moved).
double moved_bytes(const Graph& graph, const Op& op);

/// How a run uses the machine.
struct MachineUse {
  std::int64_t ranks_per_host = 1;  ///< ranks are on hosts in order
  std::int64_t document = 0;        ///< tokens of a typical document, which see only one another; 0: whole sequences
  double attention_share = 1;       ///< what attention of the busiest rank takes, as a multiple of the mean
};

/// Keys that a token sees, on average over a sequence of `keys` tokens of which each sees those before it and itself:
/// at most `window` (0: all), none beyond its document of `document` tokens (0: one document).
double mean_visible_keys(double keys, double window, double document);

/// The same on all ranks: what is asked for is the slowest of them, and only + - * / and comparisons are used. One
/// thread at a time may use it; the profile must outlive it.
class CostModel {
 public:
  CostModel(const MachineProfile& profile, const MachineUse& use) : profile_(profile), use_(use) {}

  /// Of an op of a graph after `partition`, a reshard or what it was lowered to included. Throws Error for arithmetic
  /// in a dtype of which the profile says nothing, and for a collective between hosts when it has no network.
  OpCost cost(const Graph& graph, const Op& op) const;

  const MachineProfile& profile() const { return profile_; }
  const MachineUse& use() const { return use_; }

 private:
  // The ranks of a collective, as far as its time depends on them: how many there are, and on each host at least.
  struct Group {
    int ranks = 1, here = 1;
    int doublings = 0;  // of one rank, until there are as many
  };
  struct Move;

  double product_seconds(const Graph& graph, const Op& op, double moved) const;
  double attention_seconds(const Graph& graph, const Op& op, double moved) const;
  OpCost reshard_cost(const Graph& graph, const Op& op) const;
  OpCost move_cost(const Mesh& mesh, const Move& move) const;
  Group group_of(const Mesh& mesh, const AxisList& axes) const;
  double memory_seconds(const Op& op, double bytes) const;

  const MachineProfile& profile_;
  MachineUse use_;
  mutable Mesh mesh_;                         // of the groups
  mutable std::map<AxisList, Group> groups_;  // as asked for so far
};

}  // namespace longhaul
