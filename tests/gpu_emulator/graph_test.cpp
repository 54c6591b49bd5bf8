// Graphs: what a stream is given between two calls, kept and launched as often as asked.
#include <catch2/catch.hpp>
#include <cstring>

#include "tests/gpu_emulator/device_under_test.h"

namespace longhaul::test {
namespace {

struct TestStream {
  cuda::Stream stream = nullptr;
  TestStream() { succeed(device().stream_create(&stream)); }
  ~TestStream() { device().stream_destroy(stream); }
  operator cuda::Stream() const { return stream; }
};
struct TestEvent {
  void* event = nullptr;
  TestEvent() { succeed(device().event_create(&event)); }
  ~TestEvent() { device().event_destroy(event); }
  operator void*() const { return event; }
};
struct Pinned {
  double* data = nullptr;
  explicit Pinned(std::size_t count) {
    void* pointer = nullptr;
    succeed(device().allocate_host(&pointer, count * sizeof(double)));
    data = static_cast<double*>(pointer);
    std::memset(pointer, 0, count * sizeof(double));
  }
  ~Pinned() { device().release_host(data); }
};
struct TestGraph {
  void* graph = nullptr;
  ~TestGraph() {
    if (graph) device().graph_destroy(graph);
  }
};
void multiply(const double* a, const double* b, double* to, cuda::Stream stream) {
  const cuda::ScalarProduct call{a, b, to};
  succeed(device().scalar_product(&call, stream));
}

}  // namespace

TEST_CASE("a graph does nothing until it is launched, and then all of it, with what memory holds by then") {
  for_each_schedule(3, [] {
    const TestStream main, beside;
    const TestEvent fork, join;
    const Pinned host(2);
    const DeviceArray<double> x(std::vector<double>{3, 0, 0, 0});
    succeed(device().synchronize());
    cuda::Counters before, after;
    succeed(device().counters(&before));
    TestGraph graph;
    // x[2] = (x[0] x[0]) (x[0] x[0]), half of it on the other stream; then to the host, and something that is by value.
    succeed(device().graph_begin(main));
    multiply(x.data(), x.data(), x.data() + 1, main);
    succeed(device().event_record(fork, main));
    succeed(device().stream_wait(beside, fork));
    multiply(x.data() + 1, x.data() + 1, x.data() + 2, beside);
    succeed(device().copy(host.data, x.data() + 2, 8, beside));
    succeed(device().event_record(join, beside));
    double by_value = 7;
    const cuda::ScalarConstant constant{by_value, x.data() + 3};
    succeed(device().scalar_constant(&constant, main));
    succeed(device().stream_wait(main, join));
    succeed(device().graph_end(main, &graph.graph));
    by_value = 8;
    succeed(device().synchronize());
    CHECK(x.values() == std::vector<double>{3, 0, 0, 0});
    CHECK(host.data[0] == 0);

    for (const double value : {3.0, 2.0, 5.0}) {
      host.data[1] = value;
      succeed(device().copy(x.data(), host.data + 1, 8, main));
      succeed(device().graph_launch(graph.graph, main));
      succeed(device().fill(x.data() + 1, 0, 8, main));
      succeed(device().stream_synchronize(main));
      CHECK(host.data[0] == value * value * value * value);
      CHECK(x.values() == std::vector<double>{value, 0, host.data[0], 7});  // frozen: what is by value does not change
    }
    succeed(device().counters(&after));
    CHECK(after.launches == before.launches);
    CHECK(after.graph_launches - before.graph_launches == 3);
    CHECK(after.graph_parts - before.graph_parts == 9);
    CHECK(after.allocations == before.allocations);
    // What a capture has recorded is its graph's.
    std::int32_t done = 0;
    CHECK(device().event_query(join, &done) != 0);
  });
}

TEST_CASE("launches of a graph follow each other without a wait of the host") {
  const TestStream stream;
  const DeviceArray<double> x(std::vector<double>{2, 3});
  succeed(device().synchronize());
  TestGraph graph;
  succeed(device().graph_begin(stream));
  multiply(x.data(), x.data() + 1, x.data(), stream);
  succeed(device().graph_end(stream, &graph.graph));
  for (int i = 0; i < 4; i++) succeed(device().graph_launch(graph.graph, stream));
  succeed(device().graph_destroy(graph.graph));  // before they are done
  graph.graph = nullptr;
  succeed(device().stream_synchronize(stream));
  CHECK(x.values() == std::vector<double>{162, 3});
}

TEST_CASE("what a capture does not allow fails there, and its graph is not made") {
  const TestStream stream, other;
  const TestEvent event, recorded;
  const DeviceArray<double> x(std::vector<double>{2, 3});
  double on_host = 0;
  void* pointer = nullptr;
  std::int32_t done = 0;
  succeed(device().event_record(recorded, other));
  succeed(device().synchronize());
  const auto refused = [&](const char* words, const std::function<int()>& call) {
    INFO(words);
    void* graph = &on_host;
    succeed(device().graph_begin(stream));
    multiply(x.data(), x.data(), x.data(), stream);
    CHECK(call() != 0);
    if (std::string(device().name) == "emulator") {
      CHECK_THAT(device().last_error(), Catch::Contains(words));
      const cuda::ScalarProduct more{x.data(), x.data(), x.data()};
      CHECK(device().scalar_product(&more, stream) != 0);
    }
    CHECK(device().graph_end(stream, &graph) != 0);
    CHECK(graph == nullptr);
    // The stream is as it was.
    multiply(x.data() + 1, x.data() + 1, x.data(), stream);
    succeed(device().stream_synchronize(stream));
    CHECK(x.values() == std::vector<double>{9, 3});
  };
  refused("stream_synchronize", [&] { return device().stream_synchronize(stream); });
  refused("stream_query", [&] { return device().stream_query(stream, &done); });
  refused("synchronize", [&] { return device().synchronize(); });
  refused("event_query", [&] {
    succeed(device().event_record(event, stream));
    return device().event_query(event, &done);
  });
  refused("allocate", [&] { return device().allocate(&pointer, 64); });
  refused("release", [&] { return device().release(x.data()); });
  refused("allocate_host", [&] { return device().allocate_host(&pointer, 64); });
  refused("host memory that allocate_host has not given", [&] { return device().copy(&on_host, x.data(), 8, stream); });
  refused("host memory that allocate_host has not given", [&] { return device().copy(x.data(), &on_host, 8, stream); });
  refused("default stream", [&] { return device().fill(x.data(), 0, 8, nullptr); });
  refused("from outside", [&] { return device().stream_wait(stream, recorded); });
  refused("graph_begin", [&] { return device().graph_begin(stream); });
}

TEST_CASE("a graph whose other streams are not waited for is not made") {
  const TestStream stream, other;
  const TestEvent fork;
  const DeviceArray<double> x(std::vector<double>{2});
  succeed(device().synchronize());
  void* graph = nullptr;
  succeed(device().graph_begin(stream));
  multiply(x.data(), x.data(), x.data(), stream);
  succeed(device().event_record(fork, stream));
  succeed(device().stream_wait(other, fork));
  multiply(x.data(), x.data(), x.data(), other);
  CHECK(device().graph_end(stream, &graph) != 0);
  CHECK(graph == nullptr);
  CHECK(device().graph_end(stream, &graph) != 0);  // there is none
  succeed(device().synchronize());
  CHECK(x.values() == std::vector<double>{2});
}

}  // namespace longhaul::test
