#include "tests/gpu_emulator/collectives_run.h"

#include <catch2/catch.hpp>

namespace longhaul::test {

Ranks::Ranks(int ranks, std::int64_t payload_bytes) {
  const std::size_t bytes = device().peer_workspace_bytes(payload_bytes);
  for (int rank = 0; rank < ranks; rank++) {
    workspaces.push_back(std::make_unique<DeviceArray<char>>(bytes));
    succeed(device().fill(workspaces.back()->data(), 0, bytes, nullptr));
    streams.emplace_back();
    succeed(device().stream_create(&streams.back()));
  }
  succeed(device().synchronize());
  for (int rank = 0; rank < ranks; rank++) {
    cuda::PeerGroup group{rank, ranks, static_cast<std::int64_t>(bytes), {}};
    for (int peer = 0; peer < ranks; peer++) group.peers[peer] = workspaces[peer]->data();
    groups.push_back(group);
  }
}
Ranks::~Ranks() {
  for (const cuda::Stream stream : streams) device().stream_destroy(stream);
}

// What one rank sends and receives in one round.
struct CollectiveRounds::RankRound {
  std::vector<float> exchange, gather, scatter, reduce, heads, long_reduce;
  DeviceArray<float> d_exchange, d_gather, d_scatter, d_reduce, d_heads, d_long_reduce;
  DeviceArray<float> exchanged, gathered, scattered, by_heads, returned;
  RankRound(int ranks, unsigned seed, std::size_t head_count)
      : exchange(random_float(ranks * 20, seed)),
        gather(random_float(24, seed + 1)),
        scatter(random_float(ranks * 36, seed + 2)),
        reduce(random_float(1004, seed + 3)),
        heads(random_float(head_count, seed + 4)),
        long_reduce(random_float(66000, seed + 5)),
        d_exchange(exchange),
        d_gather(gather),
        d_scatter(scatter),
        d_reduce(reduce),
        d_heads(heads),
        d_long_reduce(long_reduce),
        exchanged(exchange.size()),
        gathered(ranks * gather.size()),
        scattered(36),
        by_heads(head_count),
        returned(head_count) {}
};

namespace {
constexpr std::int32_t kBatch = 2, kRows = 3, kHeadBytes = 32;  // eight floats a head
}

CollectiveRounds::CollectiveRounds(int ranks, int rounds) : n_(ranks), all_(rounds) {
  const std::size_t head_count = static_cast<std::size_t>(kBatch) * kRows * 2 * n_ * 8;
  for (int round = 0; round < rounds; round++)
    for (int rank = 0; rank < n_; rank++)
      all_[round].push_back(std::make_unique<RankRound>(n_, 100 * round + 10 * rank, head_count));
}
CollectiveRounds::~CollectiveRounds() = default;

std::uint32_t CollectiveRounds::queue(int round, int rank, const cuda::PeerGroup& group, std::uint32_t epoch,
                                      cuda::Stream stream) const {
  const RankRound& r = *all_.at(round).at(rank);
  const std::int32_t heads = 2 * n_;
  succeed(device().peer_all_to_all(&group, epoch++, r.d_exchange.data(), r.exchanged.data(), 80, stream));
  succeed(device().peer_reduce_scatter(&group, epoch++, r.d_scatter.data(), r.scattered.data(), 36, stream));
  succeed(device().peer_sequence_to_heads(&group, epoch++, kBatch, kRows, heads, kHeadBytes, r.d_heads.data(),
                                          r.by_heads.data(), stream));
  succeed(device().peer_all_reduce(&group, epoch++, r.d_reduce.data(), 1004, stream));
  succeed(device().peer_all_gather(&group, epoch++, r.d_gather.data(), r.gathered.data(), 96, stream));
  succeed(device().peer_heads_to_sequence(&group, epoch++, kBatch, kRows, heads, kHeadBytes, r.by_heads.data(),
                                          r.returned.data(), stream));
  if (round == 0) succeed(device().peer_all_reduce(&group, epoch++, r.d_long_reduce.data(), 66000, stream));
  return epoch;
}

void CollectiveRounds::check(int round, int rank) const {
  const auto& all = all_.at(round);
  auto in_rank_order = [&](auto member, std::size_t i) {
    float sum = (all[0].get()->*member)[i];
    for (int other = 1; other < n_; other++) sum += (all[other].get()->*member)[i];
    return sum;
  };
  const RankRound& r = *all.at(rank);
  INFO("round " << round << ", rank " << rank);
  const std::vector<float> exchanged = r.exchanged.values(), gathered = r.gathered.values(),
                           scattered = r.scattered.values(), reduced = r.d_reduce.values();
  int wrong = 0;
  for (int source = 0; source < n_; source++) {
    for (int i = 0; i < 20; i++) wrong += exchanged[source * 20 + i] != all[source]->exchange[rank * 20 + i];
    for (int i = 0; i < 24; i++) wrong += gathered[source * 24 + i] != all[source]->gather[i];
  }
  CHECK(wrong == 0);
  for (int i = 0; i < 36; i++) wrong += scattered[i] != in_rank_order(&RankRound::scatter, rank * 36 + i);
  for (int i = 0; i < 1004; i++) wrong += reduced[i] != in_rank_order(&RankRound::reduce, i);
  CHECK(wrong == 0);
  CHECK(same_bits(r.returned.values(), r.heads));
  if (round == 0) {
    const std::vector<float> long_reduced = r.d_long_reduce.values();
    for (int i = 0; i < 66000; i++) wrong += long_reduced[i] != in_rank_order(&RankRound::long_reduce, i);
    CHECK(wrong == 0);
  }
}

void check_collectives(int n, int rounds) {
  Ranks ranks(n, CollectiveRounds::kPayload);
  const CollectiveRounds all(n, rounds);
  std::uint32_t epoch = 0x7ffffff0u;  // 2 * epoch wraps around on the way
  // What ranks did in epochs before: signals must look past.
  for (int rank = 0; rank < n; rank++)
    for (int source = 0; source < n; source++) {
      const std::uint32_t value = 2 * epoch - 1;
      succeed(device().copy(ranks.workspaces[rank]->data() + source * 128, &value, 4, nullptr));
    }
  succeed(device().synchronize());
  for (int round = 0; round < rounds; round++) {
    std::uint32_t next = epoch;
    for (int rank = 0; rank < n; rank++) next = all.queue(round, rank, ranks.groups[rank], epoch, ranks.streams[rank]);
    epoch = next;
  }
  succeed(device().synchronize());
  for (int round = 0; round < rounds; round++)
    for (int rank = 0; rank < n; rank++) all.check(round, rank);
}

}  // namespace longhaul::test
