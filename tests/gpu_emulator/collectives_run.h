// Several ranks on one device: a stream and a workspace each.
#pragma once
#include <memory>

#include "tests/gpu_emulator/device_under_test.h"

namespace longhaul::test {

struct Ranks {
  std::vector<std::unique_ptr<DeviceArray<char>>> workspaces;
  std::vector<cuda::Stream> streams;
  std::vector<cuda::PeerGroup> groups;

  Ranks(int ranks, std::int64_t payload_bytes);
  ~Ranks();
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;
};

/// What `ranks` ranks send each other in several rounds of every collective. Each process has the data of all ranks,
/// and queues and checks those that are its own.
class CollectiveRounds {
 public:
  static constexpr std::int64_t kPayload = 2 * 66000 * 4 + 2048;  ///< bytes of the largest one

  CollectiveRounds(int ranks, int rounds);
  ~CollectiveRounds();
  CollectiveRounds(const CollectiveRounds&) = delete;
  CollectiveRounds& operator=(const CollectiveRounds&) = delete;

  /// Every collective once, by one rank; the epoch after the last.
  std::uint32_t queue(int round, int rank, const cuda::PeerGroup& group, std::uint32_t epoch,
                      cuda::Stream stream) const;
  /// What the rank has received, sums bit for bit against sums in rank order. To be asked when its stream is done.
  void check(int round, int rank) const;

 private:
  struct RankRound;
  int n_;
  std::vector<std::vector<std::unique_ptr<RankRound>>> all_;  // [rounds][ranks]
};

/// Every collective, `rounds` times in a row on all ranks, queued without a host wait; then checks all results, sums
/// bit for bit against sums in rank order.
void check_collectives(int ranks, int rounds);

}  // namespace longhaul::test
