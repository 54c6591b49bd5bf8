// device.graphs: programs launched as wholes give the bits of those whose instructions are launched one by one; what no
// graph can hold is refused, what would stand still in one is seen, and a lost rank ends the job by the same words.
#include <array>
#include <atomic>
#include <chrono>
#include <thread>

#include "../io/temporary.h"
#include "emulated.h"
#include "trained.h"

namespace longhaul {
namespace {

using namespace testing;
using Maker = std::unique_ptr<Target> (*)(int);

Cell on(Cell cell, Maker device) {
  cell.device = device;
  return cell;
}

Cell small(DType dtype) {
  return {.spec = small_llama(), .micro_batches = 2, .rows = 2, .masking = Masking::packed, .dtype = dtype};
}
Cell of_two(DType dtype) {
  Cell cell = small(dtype);
  cell.sequence_ranks = 2;
  cell.zero_stage = 3;
  return cell;
}

// A run in one piece by each; `steps` at least three, or nothing would be launched as a graph.
void check_same(const Cell& cell, Maker plain, Maker graphs, int steps) {
  INFO(cell.text());
  const longhaul_test::TemporaryFolder a, b;
  const Trained one = train(on(cell, plain), a.path(), 1, steps), other = train(on(cell, graphs), b.path(), 1, steps);
  CHECK(one.losses == other.losses);
  CHECK((one.state == other.state));
}

// Where the host of each of two ranks was last seen in a program, as its watchdog would see it.
using Seen = std::array<std::string, 2>;

// Of one rank. `each` is called before a step.
void steps_of(const Cell& cell, int last, const std::function<void(int, Session&, const cuda::Api&)>& each,
              Seen* seen = nullptr) {
  const CompileRequest request = request_for(cell);
  const CompiledModel model = compile_model(request);
  run_threads(cell.world(), [&](Communicator& world) {
    const std::unique_ptr<Target> target = cell.target();
    Session session(world, *target, request, model);
    session.set_parameters(random_parameters(cell.spec, 11));
    std::jthread looks;  // ends before the session does
    if (seen)
      looks = std::jthread([&, rank = world.rank()](const std::stop_token& stop) {
        while (!stop.stop_requested()) {
          std::this_thread::sleep_for(std::chrono::milliseconds(1));
          if (const Activity::Place* place = session.executor().activity().place.load())
            (*seen)[static_cast<std::size_t>(rank)] =
                fmt::format("program {}, instruction {}, {}", place->program, place->instruction, place->op);
        }
      });
    for (int step = 1; step <= last; ++step) {
      if (world.rank() == 0) each(step, session, static_cast<DeviceTarget&>(*target).device().api());
      session.step(step, 1e-2, cell.micro_batches, [&](std::int64_t i) {
        fill_slice(session,
                   make_batch(cell.spec, cell.rows, cell.sequence, static_cast<int>(step * 10 + i), cell.masking),
                   cell.sequence);
      });
    }
    if (world.rank() == 0) each(last + 1, session, static_cast<DeviceTarget&>(*target).device().api());
    return 0;
  });
}

}  // namespace

TEST_CASE("graphs of one rank change no bit, with accumulation and copies to host memory", "[threads]") {
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    Cell cell = small(dtype);
    cell.micro_batches = 3;  // of which the first, those between and the last have programs of their own
    check_same(cell, emulated, in_graphs<>, 4);
    cell.micro_batches = 1;
    cell.spec.layers[0].repeat = 3;
    cell.activations = ActivationMode::keep;
    cell.offload_values = 1000;
    CHECK(compile_model(request_for(on(cell, in_graphs<>))).host_bytes > 0);
    check_same(cell, emulated, in_graphs<>, 4);
  }
}

TEST_CASE("graphs of two ranks change no bit, by NCCL and by push, with collectives beside computation or between it",
          "[threads]") {
  for (const bool beside : {false, true}) {
    Cell cell = of_two(beside ? DType::bfloat16 : DType::float32);
    if (beside) {
      cell.bucket_size = 1024;
      cell.overlap_memory = any_memory;
      cell.offload_values = 1000;
    } else {
      cell.micro_batches = 4;  // one graph twice in a row, without a wait of the host
    }
    check_same(cell, by_nccl, in_graphs<DataPlaneKind::nccl>, 3);
    cell.micro_batches = 2;
    check_same(cell, by_push, in_graphs<DataPlaneKind::push>, 3);
  }
}

TEST_CASE("a program without collectives is a graph too where other programs have some", "[threads]") {
  Cell cell = small(DType::float32);
  cell.data = 2;  // each has all gradients, and updates by itself
  cell.spec.layers[0].repeat = 6;
  const CompiledModel model = compile_model(request_for(on(cell, by_nccl)));
  const auto& update = model.program(ProgramKind::update).graph.ops;
  CHECK(update.size() > 100);  // a host that were kept from running ahead would wait in its capture
  CHECK(std::ranges::none_of(update, [](const Op& op) { return op.definition->communication; }));
  // One by one.
  const Maker plainly = [](int threads) -> std::unique_ptr<Target> {
    return std::make_unique<DeviceTarget>(
        TargetOptions{.threads = threads, .reference_only = true, .collectives = DataPlaneKind::nccl},
        cuda::Backend::emulator);
  };
  const Maker graphs = [](int threads) -> std::unique_ptr<Target> {
    return std::make_unique<DeviceTarget>(
        TargetOptions{.threads = threads, .reference_only = true, .collectives = DataPlaneKind::nccl, .graphs = true},
        cuda::Backend::emulator);
  };
  check_same(cell, plainly, graphs, 3);
}

TEST_CASE("a run goes on from checkpoints with graphs and without", "[threads]") {
  Cell plain = on(of_two(DType::float32), by_nccl);
  plain.micro_batches = 1;
  const Cell graphs = on(plain, in_graphs<DataPlaneKind::nccl>);
  const longhaul_test::TemporaryFolder whole, pieces;
  const Trained one = train(plain, whole.path(), 1, 7);
  train(graphs, pieces.path(), 1, 3);
  train(plain, pieces.path(), 4, 4);
  CHECK((train(graphs, pieces.path(), 5, 7).state == one.state));
}

TEST_CASE("with graphs a step may be skipped, waited for in the middle, and followed by validation", "[threads]") {
  const auto run = [](Maker device) {
    const Cell cell = on(of_two(DType::float32), device);
    CompileRequest request = request_for(cell);
    request.kinds = step_kinds(cell.micro_batches, true);
    const CompiledModel model = compile_model(request);
    std::vector<double> seen;
    std::string state;
    run_threads(2, [&](Communicator& world) {
      const std::unique_ptr<Target> target = cell.target();
      Session session(world, *target, request, model);
      session.set_parameters(random_parameters(cell.spec, 11));
      std::vector<double> mine;
      for (int step = 1; step <= 5; ++step) {
        const auto fill = [&](std::int64_t i) {
          fill_slice(session, make_batch(cell.spec, 2, cell.sequence, static_cast<int>(step * 10 + i), cell.masking),
                     cell.sequence);
        };
        const StepResult result = session.accumulate(2, fill);
        mine.insert(mine.end(), {result.loss, session.gradient_norm()});
        for (const StateTensor& tensor : session.state()) {
          if (tensor.key.role != Role::gradient) continue;
          const std::vector<double> gradient = session.gather(tensor);
          mine.insert(mine.end(), gradient.begin(), gradient.end());
        }
        if (step == 2 || step == 4) continue;  // bad ones
        mine.push_back(session.update(step, 1e-2 / step));
        if (step % 2) mine.push_back(session.evaluate().first);
      }
      const Traffic traffic = session.executor().traffic();
      for (const auto& row : traffic.rows)
        mine.insert(mine.end(), {static_cast<double>(row.calls), static_cast<double>(row.bytes_sent)});
      if (world.rank() == 0) seen = mine, state = state_bytes(session);
      return 0;
    });
    return std::pair(seen, state);
  };
  const auto plain = run(by_nccl), graphs = run(in_graphs<DataPlaneKind::nccl>);
  CHECK(plain.first == graphs.first);  // what was sent, too
  CHECK((plain.second == graphs.second));
}

TEST_CASE("a step of graphs is as many launches as programs run, allocates nothing and waits once") {
  const Cell cell = small(DType::float32);
  cuda::Counters plain[2], graphs[2];
  steps_of(on(cell, emulated), 3, [&](int step, Session&, const cuda::Api& api) {
    if (step > 2) api.counters(&plain[step - 3]);
  });
  std::int64_t captured = 0;
  steps_of(on(cell, in_graphs<>), 4, [&](int step, Session& session, const cuda::Api& api) {
    if (step == 3) captured = session.executor().work()->allocations;
    if (step > 3) api.counters(&graphs[step - 4]);
  });
  CHECK(graphs[1].launches == graphs[0].launches);
  CHECK(graphs[1].graph_launches - graphs[0].graph_launches == 3);  // two micro-batches and the update
  CHECK(graphs[1].graph_parts - graphs[0].graph_parts == plain[1].launches - plain[0].launches);
  CHECK(graphs[1].allocations == captured);
  CHECK(graphs[1].synchronisations - graphs[0].synchronisations == 1);
}

TEST_CASE("what a program has by value stands still in its graph, and shows") {
  // The learning rate written by the host into each launch, as it is then: right one by one, wrong in a graph.
  const auto parameters_of = [](Maker device, bool planted) {
    const Cell cell = on(small(DType::float32), device);
    const CompileRequest request = request_for(cell);
    const CompiledModel model = compile_model(request);
    std::string state;
    run_threads(1, [&](Communicator& world) {
      const std::unique_ptr<Target> target = cell.target();
      Session session(world, *target, request, model);
      session.set_parameters(random_parameters(cell.spec, 11));
      double rate = 0;
      const Graph& update = model.all()[model.index(ProgramKind::update)]->graph;
      for (const Op& op : update.ops) {
        if (!op.is("adamw") || !planted) continue;
        std::size_t operand = op.operands.size();
        for (const auto& input : update.inputs)
          if (input.name == "learning_rate")
            operand = static_cast<std::size_t>(std::ranges::find(op.operands, input.value) - op.operands.begin());
        REQUIRE(operand < op.operands.size());
        auto& kernel = const_cast<DeviceKernel&>(*static_cast<DeviceTarget&>(*target).kernels().get(update, op));
        if (kernel.name == "by value") continue;
        kernel.name = "by value";
        kernel.run = [&rate, operand, inner = kernel.run](const DeviceCall& call) {
          const cuda::ScalarConstant constant{rate,
                                              const_cast<double*>(static_cast<const double*>(call.operands[operand]))};
          call.context.succeed(call.context.api().scalar_constant(&constant, call.context.stream()));
          inner(call);
        };
      }
      for (int step = 1; step <= 4; ++step) {
        rate = 1e-2 / step;
        session.step(step, rate, 2, [&](std::int64_t i) {
          fill_slice(session, make_batch(cell.spec, 2, cell.sequence, static_cast<int>(step * 10 + i), cell.masking),
                     cell.sequence);
        });
      }
      state = state_bytes(session);
      return 0;
    });
    return state;
  };
  const Maker plainly = [](int threads) -> std::unique_ptr<Target> {
    return std::make_unique<DeviceTarget>(TargetOptions{.threads = threads, .reference_only = true},
                                          cuda::Backend::emulator);
  };
  const Maker graphs = [](int threads) -> std::unique_ptr<Target> {
    return std::make_unique<DeviceTarget>(TargetOptions{.threads = threads, .reference_only = true, .graphs = true},
                                          cuda::Backend::emulator);
  };
  const std::string right = parameters_of(plainly, false);
  CHECK((parameters_of(plainly, true) == right));
  CHECK((parameters_of(graphs, false) == right));
  CHECK((parameters_of(graphs, true) != right));
}

TEST_CASE("a collective in a graph that a peer does not come to, or that fails, ends the job with its name",
          "[threads]") {
  const auto ended_by = [&](const Cell& cell, const std::string& fault, Maker device) {
    Seen seen;
    const NcclFault planned(fault);
    std::string message;
    int reached = 0;
    const auto begin = std::chrono::steady_clock::now();
    try {
      steps_of(
          on(cell, device), 6, [&](int step, Session&, const cuda::Api&) { reached = step; }, &seen);
    } catch (const std::exception& error) {
      message = error.what();
    }
    CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(60));
    CHECK(reached >= 3);  // when all programs of a step are launched as graphs
    // The watchdog would name it too, though the host has launched all that follows.
    CHECK_THAT(message, Catch::Contains("rank 0: " + seen[0]) || Catch::Contains("rank 1: " + seen[1]));
    return message;
  };
  // About how many a rank issues a step.
  Cell cell = of_two(DType::float32);
  cell.micro_batches = 1;
  const CompiledModel model = compile_model(request_for(on(cell, in_graphs<DataPlaneKind::nccl>)));
  int issued = 0;
  for (const ProgramKind kind : {ProgramKind::accumulate_only, ProgramKind::update})
    for (const Op& op : model.all()[model.index(kind)]->graph.ops)
      issued += op.is("all_reduce") ? 2 : op.definition->communication && op.definition->half != Half::wait;
  for (const bool beside : {false, true}) {
    if (beside) cell.overlap_memory = any_memory;
    const std::string fault = fmt::format("silent 1 {}", 3 * issued + issued / 2),
                      hangs = ended_by(cell, fault, in_graphs<DataPlaneKind::nccl>),
                      plain = ended_by(cell, fault, impatient);
    INFO(hangs);
    CHECK_THAT(hangs, Catch::Contains("program ") && Catch::Contains(", instruction ") &&
                          Catch::Contains("among ranks 0, 1 by nccl: not done 0.5 seconds after the device") &&
                          Catch::Contains("device.timeout"));
    // The very collective, whichever of the ranks says it.
    CHECK(hangs.substr(hangs.find(": ")) == plain.substr(plain.find(": ")));
  }
  const std::string fails =
      ended_by(cell, fmt::format("error 0 {}", 3 * issued + issued / 2), in_graphs<DataPlaneKind::nccl>);
  INFO(fails);
  CHECK_THAT(fails, Catch::Contains("among ranks 0, 1 by nccl: ") &&
                        Catch::Contains("remote process exited or there was a network error"));
}

TEST_CASE("what no graph can hold is refused, with what to do") {
  // Known when it is compiled.
  CHECK_THROWS_WITH(compile_model(request_for(on(of_two(DType::float32), in_graphs<>))),
                    Catch::Contains("device.graphs is true") && Catch::Contains("messages are staged") &&
                        Catch::Contains("set device.collectives to nccl or push, or device.graphs to false"));
  CHECK_NOTHROW(compile_model(request_for(on(small(DType::float32), in_graphs<>))));
  CHECK_THROWS_WITH(DeviceTarget({.check_ops = true, .graphs = true}, cuda::Backend::emulator),
                    Catch::Contains("LONGHAUL_CHECK_OPS is set and device.graphs is true"));
  steps_of(on(small(DType::float32), in_graphs<>), 1, [&](int, Session& session, const cuda::Api&) {
    CHECK_THROWS_WITH(session.executor().set_profiling(true),
                      Catch::Contains("device.graphs is true") && Catch::Contains("set device.graphs to false"));
  });
  // Not the same on all ranks.
  const Cell cell = on(of_two(DType::float32), by_nccl);
  const CompileRequest request = request_for(cell);
  const CompiledModel model = compile_model(request);
  CHECK_THROWS_WITH(run_threads(2,
                                [&](Communicator& world) {
                                  const auto target = world.rank() ? in_graphs<DataPlaneKind::nccl>(1) : by_nccl(1);
                                  Session session(world, *target, request, model);
                                  return 0;
                                }),
                    Catch::Contains("rank 1 has device.graphs true, rank 0 false"));
}

}  // namespace longhaul
