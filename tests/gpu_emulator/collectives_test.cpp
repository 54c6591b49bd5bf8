// Push collectives: the address plans against a naive oracle, and 1 to 4 ranks, each a stream with its own workspace,
// through several collectives in a row without waiting in between.
#include <catch2/catch.hpp>

#include "kernels/cuda/peer_plan.h"
#include "tests/gpu_emulator/collectives_run.h"

namespace longhaul::test {
namespace {

using cuda::PeerCopy;
using cuda::PeerPlan;

// Carries out every rank's plan on host memory; a byte written twice fails.
std::vector<std::vector<char>> carry_out(int ranks, const std::vector<std::vector<char>>& send,
                                         std::size_t receive_bytes, const std::function<PeerPlan(int)>& plan) {
  std::vector<std::vector<char>> receive(ranks, std::vector<char>(receive_bytes));
  std::vector<std::vector<char>> written(ranks, std::vector<char>(receive_bytes));
  for (int rank = 0; rank < ranks; rank++)
    for (const PeerCopy& copy : plan(rank))
      for (std::int64_t i = 0; i < copy.extent[0]; i++)
        for (std::int64_t j = 0; j < copy.extent[1]; j++)
          for (std::int64_t byte = 0; byte < copy.row_bytes; byte++) {
            const std::int64_t from = copy.from + i * copy.from_stride[0] + j * copy.from_stride[1] + byte;
            const std::int64_t to = copy.to + i * copy.to_stride[0] + j * copy.to_stride[1] + byte;
            REQUIRE(written.at(copy.peer).at(to) == 0);
            written[copy.peer][to] = 1;
            receive[copy.peer][to] = send.at(rank).at(from);
          }
  return receive;
}
std::vector<std::vector<char>> random_bytes(int ranks, std::size_t bytes) {
  std::mt19937 random(3);
  std::vector<std::vector<char>> result(ranks, std::vector<char>(bytes));
  for (auto& one : result)
    for (char& c : one) c = static_cast<char>(random());
  return result;
}

}  // namespace

TEST_CASE("peer plans put every byte where a naive loop puts it") {
  for (const int n : {1, 2, 3, 4, 8}) {
    INFO(n << " ranks");
    {
      const auto send = random_bytes(n, 48 * n);
      const auto got = carry_out(n, send, 48 * n, [&](int rank) { return cuda::plan_all_to_all(rank, n, 48); });
      for (int to = 0; to < n; to++)
        for (int from = 0; from < n; from++)
          for (int i = 0; i < 48; i++) REQUIRE(got[to][from * 48 + i] == send[from][to * 48 + i]);
    }
    {
      const auto send = random_bytes(n, 80);
      const auto got = carry_out(n, send, 80 * n, [&](int rank) { return cuda::plan_all_gather(rank, n, 80); });
      for (int to = 0; to < n; to++)
        for (int from = 0; from < n; from++)
          for (int i = 0; i < 80; i++) REQUIRE(got[to][from * 80 + i] == send[from][i]);
    }
    {  // 1000 bytes in chunks of 272 or so: uneven, and empty for the last ranks
      const std::int64_t chunk = 272, bytes = 1000;
      const auto send = random_bytes(n, bytes);
      const auto got =
          carry_out(n, send, chunk * n, [&](int rank) { return cuda::plan_scatter(rank, n, bytes, chunk); });
      for (int to = 0; to < n; to++)
        for (int from = 0; from < n; from++)
          for (std::int64_t i = 0; i < chunk && to * chunk + i < bytes; i++)
            REQUIRE(got[to][from * chunk + i] == send[from][to * chunk + i]);
    }
    const std::int64_t batch = 2, rows = 3, heads = 2 * n, d = 16;
    const auto send = random_bytes(n, batch * rows * heads * d);
    const auto by_heads = carry_out(n, send, send[0].size(), [&](int rank) {
      return cuda::plan_sequence_to_heads(rank, n, batch, rows, heads, d);
    });
    for (int to = 0; to < n; to++)
      for (std::int64_t b = 0; b < batch; b++)
        for (std::int64_t s = 0; s < n * rows; s++)
          for (std::int64_t h = 0; h < 2; h++)
            for (std::int64_t i = 0; i < d; i++)
              REQUIRE(by_heads[to][((b * n * rows + s) * 2 + h) * d + i] ==
                      send[s / rows][((b * rows + s % rows) * heads + to * 2 + h) * d + i]);
    const auto back = carry_out(n, by_heads, send[0].size(),
                                [&](int rank) { return cuda::plan_heads_to_sequence(rank, n, batch, rows, heads, d); });
    REQUIRE(back == send);
  }
}

TEST_CASE("push collectives between ranks") {
  for (const int ranks : {1, 2, 3, 4}) {
    INFO(ranks << " ranks");
    for_each_schedule(ranks == 1 ? 1 : 4, [&] { check_collectives(ranks, 3); });
  }
}

TEST_CASE("a collective that does not fit its workspace says so") {
  Ranks ranks(2, 1024);
  const DeviceArray<float> data(4096);
  CHECK(device().peer_all_reduce(&ranks.groups[0], 1, data.data(), 4096, nullptr) != 0);
  CHECK_THAT(device().last_error(), Catch::Contains("needs a workspace for 32768 bytes, this one is for 1024"));
  CHECK(device().peer_sequence_to_heads(&ranks.groups[0], 1, 1, 1, 3, 16, data.data(), nullptr, nullptr) != 0);
  CHECK_THAT(device().last_error(), Catch::Contains("heads must be a multiple of the ranks"));
}

}  // namespace longhaul::test
