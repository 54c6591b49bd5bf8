// Messages that a device writes into its peers' memory itself, on one machine: into their arenas, at the place that the
// plan, which is the same for all, gives the receiver. Before it all ranks' streams say that they have come that far,
// after it that all has arrived; the host waits for nothing. Sums are added in rank order by the rank that owns a part.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/peer_plan.h"
#include "runtime/device/collective_watch.h"
#include "runtime/device/data_plane.h"

namespace longhaul {

/// What the devices of all ranks let each other use: their arenas, and a place for signals.
class PeerMemory {
 public:
  /// Collective. Throws Error where ranks are on several machines or a device cannot reach another.
  PeerMemory(DeviceContext& context, Communicator& world, const DeviceMemory& arena);
  /// Waits for all ranks, unless one has failed: what they have opened of each other's is given back after that.
  ~PeerMemory();
  PeerMemory(const PeerMemory&) = delete;

  static constexpr int most_groups = 64;
  /// Of the group of this number, in the order in which all ranks make their groups.
  cuda::PeerGroup group(int number, const std::vector<int>& ranks) const;
  /// Where a rank's arena begins.
  char* arena(int rank) const { return arenas_[static_cast<std::size_t>(rank)]; }
  std::size_t arena_bytes() const { return arena_bytes_; }
  /// From now on no stream waits for another rank.
  void give_up() noexcept;

 private:
  void open_peers();

  DeviceContext& context_;
  Communicator& world_;
  std::size_t arena_bytes_;
  DeviceMemory signals_;
  DeviceMemory counters_;  // of barriers, a word a group
  DeviceMemory give_up_;   // of the host
  const int exceptions_;
  std::vector<char*> arenas_, areas_;  // by rank
  std::vector<void*> opened_;
};

class PushPlane final : public DataPlane, private PeerWait {
 public:
  /// `ranks` of the group in the world; `number` as of PeerMemory::group.
  PushPlane(DeviceContext& context, Communicator& group, CollectiveWatch& watch, PeerMemory& memory, int number,
            const std::vector<int>& ranks);
  ~PushPlane() override;

  void move(const CommunicationStep& step, const DeviceMessage& message) override;

 private:
  void check() override {}
  void abort() noexcept override { memory_.give_up(); }
  void barrier();
  /// Where at `rank` of the group lies what lies at `here` in this rank's arena.
  char* at(int rank, const void* here) const;
  void add(int rank, const char* from, const char* to_as_here, std::int64_t bytes);
  /// Writes what was added; after it all have. Before it, unless `all_here`, all have come.
  void push(bool all_here = false);

  DeviceContext& context_;
  CollectiveWatch& watch_;
  PeerMemory& memory_;
  const cuda::PeerGroup peers_;
  const std::vector<int> world_ranks_;
  const int rank_, ranks_;
  std::vector<cuda::CopyEntry> entries_;
};

}  // namespace longhaul
