// Calls of a program that fail or compute something else: an error names program, instruction and op, and the shadow
// stops at the first that differs.
#include <catch2/catch.hpp>

#include "../proof/matrix.h"
#include "emulated.h"
#include "ir/op_definition.h"

namespace longhaul {
namespace {

using namespace testing;

struct Ended {
  std::string error;
  int runs = 0;  // of the kernel
};

// A step on one rank, in which the kernel of norms is `planted`, given the one that it replaces and how often it has
// run. `places`: the words for its instructions.
Ended step_with(std::unique_ptr<Target> (*device)(int), std::vector<std::string>& places,
                const std::function<void(const DeviceCall&, const DeviceKernel&, int)>& planted) {
  const Cell cell{.spec = small_llama(), .rows = 2, .dtype = DType::float32, .device = device};
  const CompileRequest request = request_for(cell);
  const CompiledModel model = compile_model(request);
  Ended ended;
  places.clear();
  try {
    run_threads(1, [&](Communicator& world) {
      const std::unique_ptr<Target> target = cell.target();
      Session session(world, *target, request, model);
      session.set_parameters(random_parameters(cell.spec, 11));
      DeviceKernelCache& kernels = static_cast<DeviceTarget&>(*target).kernels();
      const Graph& graph = model.program(ProgramKind::accumulate_only).graph;
      std::shared_ptr<const DeviceKernel> kernel;
      for (std::size_t i = 0; i < graph.ops.size(); ++i) {
        if (!graph.ops[i].is("rms_norm")) continue;
        const auto one = kernels.get(graph, graph.ops[i]);
        if (!kernel) kernel = one;
        if (one != kernel) continue;
        places.push_back(
            fmt::format("program {}, instruction {}, {}: ", graph.name, i, LocalOp(graph, graph.ops[i], false).text()));
      }
      REQUIRE(places.size() >= 2);
      auto& replaced = const_cast<DeviceKernel&>(*kernel);
      replaced.name = "planted";
      replaced.run = [&, inner = *kernel](const DeviceCall& call) { planted(call, inner, ++ended.runs); };
      session.step(1, 1e-2, cell.micro_batches, [&](std::int64_t) {
        fill_slice(session, make_batch(cell.spec, cell.rows, cell.sequence, 10, cell.masking), cell.sequence);
      });
      return 0;
    });
  } catch (const Error& error) {
    ended.error = error.what();
  }
  return ended;
}

void wipe(const DeviceCall& call) {
  call.context.succeed(call.context.api().fill(call.results[0], 0, 64, call.context.stream()));
}

}  // namespace

TEST_CASE("a call that the device refuses is an error with program, instruction, op and the device's words") {
  std::vector<std::string> places;
  const Ended ended = step_with(emulated, places, [](const DeviceCall& call, const DeviceKernel& inner, int run) {
    if (run < 2) return inner.run(call);
    cuda::Matmul wrong{};
    wrong.m = -1;
    call.context.succeed(call.context.api().matmul(&wrong, call.context.stream()));
  });
  CHECK(ended.error == places[1] + "emulator device 0: matmul: a size is negative");
  CHECK(ended.runs == 2);
}

TEST_CASE("what a device finds later is named by the shadow, which waits for each") {
  std::vector<std::string> places;
  const auto wild = [](const DeviceCall& call, const DeviceKernel& inner, int run) {
    if (run < 2) return inner.run(call);
    cuda::Scale wrong{};  // reads and writes memory of the host
    std::vector<float> host(4);
    wrong.count = 4, wrong.type = cuda::Type::float32, wrong.x = host.data(), wrong.y = host.data();
    call.context.succeed(call.context.api().scale(&wrong, call.context.stream()));
  };
  const std::string says = "outside every registered buffer";
  const Ended late = step_with(emulated, places, wild);
  CHECK_THAT(late.error, Catch::Contains("emulator device 0: ") && Catch::Contains(says));
  CHECK_THAT(late.error, !Catch::Contains(places[1]));
  const Ended at_once = step_with(checked, places, wild);
  CHECK_THAT(at_once.error, Catch::StartsWith(places[1] + "emulator device 0: ") && Catch::Contains(says));
  CHECK(at_once.runs == 2);
}

TEST_CASE("the shadow stops a run at the first kernel that computes something else, and names it") {
  std::vector<std::string> places;
  const auto from = [&](int first) {
    return [first](const DeviceCall& call, const DeviceKernel& inner, int run) {
      inner.run(call);
      if (run >= first) wipe(call);
    };
  };
  CHECK(step_with(emulated, places, from(1)).error == "");
  CHECK(step_with(checked, places, from(1000)).error == "");
  for (const int first : {1, 2}) {
    const Ended ended = step_with(checked, places, from(first));
    CHECK_THAT(ended.error, Catch::StartsWith(places.at(static_cast<std::size_t>(first - 1)) +
                                              "kernel planted and the CPU's reference kernel disagree about result 0 "
                                              "of rms_norm"));
    CHECK(ended.runs == first);
  }
}

}  // namespace longhaul
