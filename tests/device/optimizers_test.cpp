// Optimizers on a device: every kind and its state's dtype beside the CPU, and updates of many tensors in few launches,
// which change no bit and never move an instruction over one that it depends on.
#include <catch2/catch.hpp>
#include <mutex>

#include "../train/ranks.h"
#include "emulated.h"
#include "runtime/device/executor.h"
#include "runtime/device/many.h"

namespace longhaul {
namespace {

using namespace testing;

struct Optimizer {
  OptimizerKind kind;
  double momentum = 0;
  bool nesterov = false;
  std::optional<DType> moments = {};
};

CompileRequest request_of(const Cell& cell, const Optimizer& optimizer) {
  CompileRequest request = request_for(cell);
  OptimizerSettings& settings = request.options.meaning.optimizer;
  settings.kind = optimizer.kind, settings.momentum = optimizer.momentum, settings.nesterov = optimizer.nesterov;
  request.options.precision.moment = optimizer.moments;
  const auto all = parameters(request.spec);
  for (std::size_t i = 0; optimizer.kind == OptimizerKind::muon && i < all.size(); ++i)
    request.options.meaning.parameters[i].rows = matrix_rows(all[i]);
  return request;
}

Outcome run(const Cell& cell, const Optimizer& optimizer, std::string& problem) {
  const CompileRequest request = request_of(cell, optimizer);
  const CompiledModel model = compile_model(request);
  Outcome first;
  std::mutex mutex;
  run_threads(cell.world(), [&](Communicator& world) {
    std::string mine;
    Outcome outcome = run_rank(world, cell, request, model, mine);
    const std::lock_guard lock(mutex);
    if (!mine.empty()) problem = mine;
    if (world.rank() == 0) first = std::move(outcome);
    return 0;
  });
  return first;
}

// Of the root mean square of all parameters.
double apart(const Outcome& a, const Outcome& b) {
  double difference = 0, norm = 0;
  for (const auto& [name, values] : b.parameters)
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double d = a.parameters.at(name)[i] - values[i];
      difference += d * d, norm += values[i] * values[i];
    }
  return std::sqrt(difference / norm);
}

Cell cell_with(DType dtype, int data, int stage) {
  Cell cell{.spec = small_llama(), .data = data, .zero_stage = stage, .rows = 2, .dtype = dtype};
  cell.device = emulated;
  return cell;
}

// All that a rank's named buffers hold after an update of random state.
std::string updated(Communicator& world, const CompiledModel& model, bool groups, std::int64_t& launches) {
  DeviceContext context(cuda::Backend::emulator);
  context.device().select(world.rank());
  DeviceKernelCache kernels(context, false);
  const auto programs = model.all();
  DeviceExecutor executor(world, programs, model.named, context, kernels, nullptr, groups);
  std::uint32_t state = 1;
  for (const auto& [name, slot] : model.named.slots) {
    std::vector<float> values(static_cast<std::size_t>(slot.bytes / 4));
    for (float& value : values) {
      state = state * 1664525u + 1013904223u;
      value = 0.25f + static_cast<float>(state >> 9) * 0x1p-23f;
    }
    if (slot.bytes > 8) executor.write(name, 0, std::as_bytes(std::span(values)));
  }
  executor.set_scalar("step", 3);
  executor.set_scalar("learning_rate", 1e-2);
  cuda::Counters before, after;
  context.api().counters(&before);
  executor.run(model.index(ProgramKind::update));
  context.api().counters(&after);
  launches = after.launches - before.launches;
  std::string all;
  for (const auto& [name, slot] : model.named.slots) {
    std::string bytes(static_cast<std::size_t>(slot.bytes), 0);
    executor.read(name, 0, std::as_writable_bytes(std::span(bytes)));
    all += name + bytes;
  }
  return all;
}

}  // namespace

TEST_CASE("every optimizer, its moments in float32 or bfloat16, is on a device what it is on CPUs", "[threads]") {
  for (const Optimizer& optimizer :
       {Optimizer{OptimizerKind::sgd}, Optimizer{OptimizerKind::sgd, 0.9, false, DType::bfloat16},
        Optimizer{OptimizerKind::sgd, 0.9, true}, Optimizer{OptimizerKind::muon, 0.95, true},
        Optimizer{OptimizerKind::muon, 0.95, false, DType::bfloat16},
        Optimizer{OptimizerKind::adamw, 0, false, DType::bfloat16}})
    for (const auto& [dtype, data, stage] :
         {std::tuple{DType::float32, 1, 0}, std::tuple{DType::float32, 2, 1}, std::tuple{DType::bfloat16, 2, 3}}) {
      INFO(static_cast<int>(optimizer.kind) << " momentum " << optimizer.momentum << " nesterov " << optimizer.nesterov
                                            << " moments " << (optimizer.moments ? "bfloat16" : "as masters") << " "
                                            << name_of(dtype) << " data " << data << " stage " << stage);
      Cell cell = cell_with(dtype, data, stage);
      std::string problem;
      const Outcome device = run(cell, optimizer, problem);
      cell.device = checked;  // every op by itself, those of many tensors too
      CHECK_NOTHROW(run(cell, optimizer, problem));
      cell.device = nullptr;
      const Outcome cpu = run(cell, optimizer, problem);
      CHECK(problem == "");
      CHECK(apart(device, cpu) < (dtype == DType::float32 && !optimizer.moments ? 1e-4 : 2e-2));
    }
}

TEST_CASE("an update of many tensors takes few launches and gives the bits of one by one", "[threads]") {
  for (const Optimizer& optimizer :
       {Optimizer{OptimizerKind::adamw}, Optimizer{OptimizerKind::sgd, 0.9, false, DType::bfloat16},
        Optimizer{OptimizerKind::muon, 0.95, true}})
    for (const auto& [dtype, data, stage] : {std::tuple{DType::bfloat16, 1, 0}, std::tuple{DType::float32, 2, 1},
                                             std::tuple{DType::bfloat16, 2, 1}, std::tuple{DType::bfloat16, 2, 3}}) {
      INFO(static_cast<int>(optimizer.kind) << " " << name_of(dtype) << " data " << data << " stage " << stage);
      Cell cell = cell_with(dtype, data, stage);
      cell.spec.layers[0].repeat = 12;
      const CompiledModel model = compile_model(request_of(cell, optimizer));
      const std::size_t tensors = parameters(cell.spec).size();
      std::mutex mutex;
      std::vector<std::string> problems;
      run_threads(data, [&](Communicator& world) {
        std::int64_t together = 0, alone = 0;
        const std::string grouped = updated(world, model, true, together), single = updated(world, model, false, alone);
        const std::lock_guard lock(mutex);
        if (grouped != single) problems.push_back("other bits");
        if (optimizer.kind != OptimizerKind::muon && together >= 20)
          problems.push_back(fmt::format("{} launches", together));
        if (alone < static_cast<std::int64_t>(2 * tensors) || together >= alone)
          problems.push_back(fmt::format("{} launches for {} tensors, {} one by one", together, tensors, alone));
        return 0;
      });
      CHECK(problems == std::vector<std::string>{});
    }
}

TEST_CASE("instructions go together only where memory lets them") {
  const Cell cell = cell_with(DType::float32, 1, 0);
  const CompiledModel model = compile_model(request_of(cell, {OptimizerKind::sgd}));
  const Graph& graph = model.program(ProgramKind::update).graph;
  // Four sums of squares at places of our own; nothing is run.
  std::vector<Instructed> program;
  std::vector<const void*> operands(4);
  std::vector<void*> results(4);
  static char memory[1 << 20];
  for (std::size_t i = 0; i < 4; ++i) {
    const Op& op = graph.ops[i];
    REQUIRE(op.is("sum_squares"));
    operands[i] = memory + (i << 16), results[i] = memory + (1 << 19) + 64 * i;
    program.push_back({&graph, &op, nullptr, {&operands[i], 1}, {&results[i], 1}, memory, 64});
  }
  const auto groups = [&] {
    std::vector<std::vector<std::size_t>> list;
    for (const auto& group : group_instructions(program)) list.push_back(group.instructions);
    return list;
  };
  using Groups = std::vector<std::vector<std::size_t>>;
  CHECK(groups() == Groups{{0, 1, 2, 3}});
  results[2] = memory + 16;  // over what the first reads: all before it come first
  CHECK(groups() == Groups{{0, 1}, {2, 3}});
  results[2] = results[1];  // a result written twice
  CHECK(groups() == Groups{{0, 1}, {2, 3}});
  results[2] = memory + (1 << 19) + 128;
  operands[3] = results[0];  // reads what the first gives
  CHECK(groups() == Groups{{0, 1, 2}, {3}});
}

}  // namespace longhaul
