// The emulator as devices: ranks that are threads, each on a device of its own; streams that order copies, kernels and
// products; counters.
#include <catch2/catch.hpp>
#include <chrono>
#include <cstring>
#include <future>
#include <latch>
#include <thread>

#include "tests/gpu_emulator/device_under_test.h"
#include "tests/gpu_emulator/emulator/core.h"

namespace longhaul::test {
namespace {

// A thread's device is that of its own selection.
void on_device(int index, const std::function<void()>& body) {
  std::thread([&] {
    succeed(device().device_select(index));
    body();
  }).join();
}

struct TwoRanks {
  std::size_t bytes = device().peer_workspace_bytes(4096);
  DeviceArray<char> workspace[2] = {DeviceArray<char>(bytes), DeviceArray<char>(bytes)};
  DeviceArray<float> data[2] = {DeviceArray<float>(std::vector<float>(256, 1)),
                                DeviceArray<float>(std::vector<float>(256, 2))};
  cuda::PeerGroup group[2];
  std::string said[2];

  TwoRanks() {
    for (int rank = 0; rank < 2; rank++) {
      succeed(device().fill(workspace[rank].data(), 0, bytes, nullptr));
      group[rank] = {rank, 2, static_cast<std::int64_t>(bytes), {workspace[0].data(), workspace[1].data()}};
    }
  }
  // Sums data of both ranks on this rank's own device, a while after all have theirs.
  void run(int rank, int milliseconds, std::uint32_t epoch, std::latch& all) {
    succeed(device().device_select(rank));
    all.arrive_and_wait();
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
    cuda::Stream stream = nullptr;
    succeed(device().stream_create(&stream));
    succeed(device().peer_all_reduce(&group[rank], epoch, data[rank].data(), 256, stream));
    if (device().stream_synchronize(stream)) said[rank] = device().last_error(), emulator::discard_queues();
    device().stream_destroy(stream);
  }
};

}  // namespace

TEST_CASE("ranks on devices of their own wait for each other, whoever comes first") {
  for (const int late : {0, 1}) {
    TwoRanks ranks;
    std::latch all(2);
    std::thread other([&] { ranks.run(1, late == 1 ? 100 : 0, 1, all); });
    std::thread([&] { ranks.run(0, late == 0 ? 100 : 0, 1, all); }).join();
    other.join();
    for (int rank = 0; rank < 2; rank++) {
      CHECK(ranks.said[rank] == "");
      CHECK(ranks.data[rank].values() == std::vector<float>(256, 3));
    }
  }
}

TEST_CASE("ranks that all wait, and a rank whose peer never comes, are told so") {
  const emulator::Options before = emulator::options;
  TwoRanks ranks;
  // Each signals itself and nobody else: both see it at once, whatever the patience.
  ranks.group[0].peers[1] = ranks.workspace[0].data();
  ranks.group[1].peers[0] = ranks.workspace[1].data();
  std::latch all(2);
  std::thread other([&] { ranks.run(1, 0, 1, all); });
  std::thread([&] { ranks.run(0, 20, 1, all); }).join();
  other.join();
  for (const std::string& words : ranks.said) CHECK_THAT(words, Catch::Contains("DEADLOCK"));

  // A device that is there and does something else might signal yet.
  emulator::options.patience_ms = 50;
  TwoRanks alone;
  std::promise<void> selected, done;
  std::thread busy([&] {
    succeed(device().device_select(5));
    selected.set_value();
    done.get_future().wait();
  });
  selected.get_future().wait();
  std::latch one(1);
  std::thread([&] { alone.run(0, 0, 1, one); }).join();
  done.set_value();
  busy.join();
  CHECK_THAT(alone.said[0], Catch::Contains("DEADLOCK") && Catch::Contains("a wait for another rank"));
  emulator::options = before;
}

TEST_CASE("a barrier of ranks is asked about without waiting, and given up from the host") {
  TwoRanks ranks;
  void* word = nullptr;
  succeed(device().allocate_host(&word, 4));
  std::memset(word, 0, 4);
  ranks.group[0].give_up = static_cast<const std::uint32_t*>(word);
  on_device(0, [&] {
    cuda::Stream stream = nullptr;
    std::int32_t done = 1;
    succeed(device().stream_create(&stream));
    succeed(device().peer_barrier(&ranks.group[0], 1, stream));
    succeed(device().fill(ranks.data[0].data(), 0, 4, stream));
    for (int i = 0; i < 10; i++) {
      succeed(device().stream_query(stream, &done));
      CHECK(!done);
    }
    // The other rank comes.
    on_device(1, [&] {
      cuda::Stream there = nullptr;
      succeed(device().stream_create(&there));
      succeed(device().peer_barrier(&ranks.group[1], 1, there));
      succeed(device().stream_synchronize(there));
      device().stream_destroy(there);
    });
    succeed(device().stream_query(stream, &done));
    CHECK(done);
    CHECK(ranks.data[0].values()[0] == 0);
    // To the next it does not.
    succeed(device().peer_barrier(&ranks.group[0], 2, stream));
    succeed(device().stream_query(stream, &done));
    CHECK(!done);
    const std::uint32_t one = 1;
    std::memcpy(word, &one, 4);
    succeed(device().stream_query(stream, &done));
    CHECK(done);
    CHECK(device().peer_barrier(&ranks.group[0], 0, stream) != 0);
    device().stream_destroy(stream);
  });
  succeed(device().release_host(word));
}

TEST_CASE("barriers in graphs: epochs that the device counts go on, those by value stand still") {
  for (const bool counts : {true, false}) {
    TwoRanks ranks;
    const DeviceArray<std::uint32_t> counters(std::vector<std::uint32_t>(2, 0));
    const DeviceArray<double> x(std::vector<double>{1, 2}), seen(1);
    cuda::Stream streams[2];
    void* graphs[2];
    for (int rank = 0; rank < 2; rank++)
      on_device(rank, [&] {
        if (counts) ranks.group[rank].counter = counters.data() + rank;
        const cuda::ScalarProduct twice{x.data(), x.data() + 1, x.data()};
        succeed(device().stream_create(&streams[rank]));
        succeed(device().graph_begin(streams[rank]));
        if (rank == 0) succeed(device().scalar_product(&twice, streams[0]));
        succeed(device().peer_barrier(&ranks.group[rank], 1, streams[rank]));
        if (rank == 1) succeed(device().copy(seen.data(), x.data(), 8, streams[1]));
        succeed(device().graph_end(streams[rank], &graphs[rank]));
      });
    on_device(1, [&] {
      for (const double value : {2.0, 4.0}) {  // of x, once rank 0 has doubled it
        std::int32_t done = 1;
        succeed(device().graph_launch(graphs[1], streams[1]));
        succeed(device().stream_query(streams[1], &done));
        const bool waits = counts || value == 2;
        CHECK(done == !waits);
        on_device(0, [&] {
          succeed(device().graph_launch(graphs[0], streams[0]));
          succeed(device().stream_synchronize(streams[0]));
        });
        succeed(device().stream_synchronize(streams[1]));
        CHECK(seen.values()[0] == (waits ? value : 2));
      }
    });
    for (int rank = 0; rank < 2; rank++)
      on_device(rank, [&] {
        succeed(device().graph_destroy(graphs[rank]));
        device().stream_destroy(streams[rank]);
      });
  }
}

TEST_CASE("a stream orders copies, fills and products; nothing runs before it is waited for") {
  cuda::Stream stream = nullptr;
  succeed(device().stream_create(&stream));
  void* pinned = nullptr;
  succeed(device().allocate_host(&pinned, 2 * sizeof(float)));
  float* const host = static_cast<float*>(pinned);
  const DeviceArray<float> a(1), c(1);
  const cuda::Matmul square{
      1, 1, 1,       0,       0, cuda::Type::float32, cuda::Type::float32, 1, 0, a.data(), a.data(), c.data(), 1,
      1, 1, nullptr, nullptr, 0};
  host[0] = 3;
  succeed(device().copy(a.data(), host, 4, stream));
  succeed(device().matmul(&square, stream));
  succeed(device().copy(host + 1, c.data(), 4, stream));
  succeed(device().fill(c.data(), 0, 4, stream));
  host[1] = -1;
  host[0] = 5;  // too early: the copy has not been waited for, and takes what is there when its turn comes
  CHECK(host[1] == -1);
  succeed(device().stream_synchronize(stream));
  CHECK(host[1] == 25);
  CHECK(c.values() == std::vector<float>{0});
  device().stream_destroy(stream);
  succeed(device().release_host(pinned));
}

TEST_CASE("a stream belongs to the device on which it was made") {
  cuda::Stream stream = nullptr;
  succeed(device().stream_create(&stream));
  const DeviceArray<float> a(1);
  on_device(3, [&] {
    CHECK(device().fill(a.data(), 0, 4, stream) != 0);
    CHECK_THAT(device().last_error(), Catch::Contains("a stream of another device"));
  });
  CHECK(device().device_select(64) != 0);
  CHECK_THAT(device().last_error(), Catch::Contains("64 devices"));
  device().stream_destroy(stream);
}

TEST_CASE("a thread's launches, allocations and waits are counted") {
  on_device(2, [] {
    cuda::Counters before, after;
    succeed(device().counters(&before));
    const DeviceArray<float> from(std::vector<float>(8, 1.0f));
    const DeviceArray<bfloat16> to(8);
    succeed(device().cast(from.data(), cuda::Type::float32, to.data(), cuda::Type::bfloat16, 8, nullptr));
    succeed(device().synchronize());
    succeed(device().counters(&after));
    CHECK(after.launches - before.launches == 1);
    CHECK(after.allocations - before.allocations == 2);
    CHECK(after.allocated_bytes - before.allocated_bytes == 48);
    CHECK(after.synchronisations - before.synchronisations == 1);
  });
}

TEMPLATE_TEST_CASE("products of every layout, with and without an addend", "", bfloat16, float) {
  using T = TestType;
  const std::int64_t m = 7, n = 21, k = 33;
  const cuda::Type type = sizeof(T) == 2 ? cuda::Type::bfloat16 : cuda::Type::float32;
  std::vector<T> x, y;
  for (const float value : random_float(static_cast<std::size_t>(m * k), 1)) x.push_back(T(value));
  for (const float value : random_float(static_cast<std::size_t>(n * k), 2)) y.push_back(T(value));
  const std::vector<float> z = random_float(static_cast<std::size_t>(m * n), 3);
  const DeviceArray<T> d_x(x), d_y(y);
  const DeviceArray<float> d_z(z);
  for (const bool a_transposed : {false, true})
    for (const bool b_transposed : {false, true})
      for (const int adds : {0, 1, 2}) {  // no; to what is there; to something else
        INFO("transposed " << a_transposed << b_transposed << ", adds " << adds);
        std::vector<double> want(static_cast<std::size_t>(m * n));
        for (std::int64_t i = 0; i < m; i++)
          for (std::int64_t j = 0; j < n; j++) {
            double sum = adds ? z[static_cast<std::size_t>(i * n + j)] : 0;
            for (std::int64_t p = 0; p < k; p++)
              sum += static_cast<double>(
                         static_cast<float>(x[static_cast<std::size_t>(a_transposed ? p * m + i : i * k + p)])) *
                     static_cast<double>(
                         static_cast<float>(y[static_cast<std::size_t>(b_transposed ? j * k + p : p * n + j)]));
            want[static_cast<std::size_t>(i * n + j)] = sum;
          }
        const DeviceArray<float> c(z);
        const cuda::Matmul call{m,
                                n,
                                k,
                                a_transposed,
                                b_transposed,
                                type,
                                cuda::Type::float32,
                                1,
                                adds ? 1.0f : 0.0f,
                                d_x.data(),
                                d_y.data(),
                                c.data(),
                                a_transposed ? m : k,
                                b_transposed ? k : n,
                                n,
                                adds == 2 ? d_z.data() : nullptr,
                                nullptr,
                                0};
        succeed(device().matmul(&call, nullptr));
        CHECK(difference(c.values(), want).relative < 1e-6);
      }
}

TEST_CASE("a product outside every buffer is refused") {
  const DeviceArray<float> a(6), c(4);
  const cuda::Matmul call{
      2, 2, 3,       0,       0, cuda::Type::float32, cuda::Type::float32, 1, 0, a.data(), a.data(), c.data(), 4,
      2, 2, nullptr, nullptr, 0};
  CHECK(device().matmul(&call, nullptr) != 0);
  CHECK_THAT(device().last_error(), Catch::Contains("a lies outside every registered buffer"));
}

}  // namespace longhaul::test
