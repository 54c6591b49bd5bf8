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

/// Every collective, `rounds` times in a row on all ranks, queued without a host wait; then checks all results, sums
/// bit for bit against sums in rank order.
void check_collectives(int ranks, int rounds);

}  // namespace longhaul::test
