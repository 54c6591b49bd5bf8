#include "planner/measure.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>

#include "comm/exchange.h"
#include "passes/plan_memory.h"

namespace longhaul {
namespace {

using Clock = std::chrono::steady_clock;

// The fastest of several runs on the slowest rank; all ranks make as many.
double fastest(Communicator& group, double patience, const std::function<void()>& run) {
  run();
  double least = std::numeric_limits<double>::infinity(), spent = 0;
  for (int i = 0; i < 200 && (i < 3 || spent < patience); ++i) {
    group.barrier();
    const auto begin = Clock::now();
    run();
    const std::vector<double> all = all_gather(group, std::chrono::duration<double>(Clock::now() - begin).count());
    const double slowest = *std::max_element(all.begin(), all.end());
    least = std::min(least, slowest);
    spent += slowest;
  }
  return least;
}

// Numbers between -1 and 1, the same wherever they are asked for.
void fill(Executor& executor, const std::string& buffer, const Value& value) {
  const std::int64_t count = element_count(value.shape);
  std::vector<std::byte> bytes(static_cast<std::size_t>(count) * size_of(value.dtype));
  for (std::int64_t i = 0; i < count; ++i) {
    const float number = static_cast<float>((i * 7919) % 2001 - 1000) * 1e-3F;
    std::byte* const to = bytes.data() + static_cast<std::size_t>(i) * size_of(value.dtype);
    if (value.dtype == DType::int32) {
      const auto place = static_cast<std::int32_t>(buffer == "index" ? i : 0);
      std::memcpy(to, &place, sizeof place);
    } else if (value.dtype == DType::uint8) {
      *to = static_cast<std::byte>(i % 256);
    } else if (value.dtype == DType::float64) {
      const double wide = number;
      std::memcpy(to, &wide, sizeof wide);
    } else {
      std::uint32_t bits;
      std::memcpy(&bits, &number, sizeof bits);
      if (value.dtype == DType::bfloat16) {
        const auto half = static_cast<std::uint16_t>(bits >> 16);
        std::memcpy(to, &half, sizeof half);
      } else {
        std::memcpy(to, &bits, sizeof bits);
      }
    }
  }
  executor.write(buffer, 0, bytes);
}

}  // namespace

double Measure::seconds(const std::string& text) {
  Program program;
  program.graph = parse_graph(text);
  const NamedBuffers named = plan_named_buffers({&program.graph});
  program.plan = plan_memory(program.graph, named,
                             [&](const Graph& graph, const Op& op) { return target_.scratch_bytes(graph, op); });
  const Program* const programs[] = {&program};
  target_.set_library_policy({.only = "", .measures = target_.options().threads == 1 || world_.size() == 1},
                             program.graph.values[0].dtype, "calibrate");
  if (world_.rank() == 0) target_.choose_libraries(programs, "");
  target_.set_libraries(broadcast_text(world_, target_.libraries()));
  const auto executor = target_.executor(world_, programs, named);
  for (const Binding& input : program.graph.inputs) fill(*executor, input.name, program.graph[input.value]);
  return fastest(world_, patience_, [&] { executor->run(0); });
}

LinkProfile Measure::link(Communicator& group, std::size_t bytes) {
  const auto ranks = static_cast<std::size_t>(group.size());
  std::vector<std::byte> send(bytes), receive(bytes * ranks),
      scratch(Communicator::reduction_scratch_bytes(group.size(), bytes / 4 * ranks, DType::float32));
  int doublings = 0;
  while (1 << doublings < group.size()) ++doublings;
  LinkProfile link;
  constexpr int calls = 20;
  const double small = fastest(group, patience_, [&] {
    for (int i = 0; i < calls; ++i) group.all_gather(send.data(), receive.data(), 64);
  });
  link.latency = small / calls / std::max(1, doublings);
  const double sent = static_cast<double>(bytes * (ranks - 1));
  const double gather = fastest(group, patience_, [&] { group.all_gather(send.data(), receive.data(), bytes); });
  link.bandwidth = sent / gather;
  const double reduce = fastest(group, patience_, [&] {
    group.reduce_scatter(receive.data(), send.data(), bytes / 4, DType::float32, scratch.data());
  });
  link.reducing = sent / reduce;
  return link;
}

}  // namespace longhaul
