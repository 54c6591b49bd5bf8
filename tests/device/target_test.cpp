// A device as a target: sessions, checkpoints that travel between CPUs and devices, what a step asks of the device,
// what is refused, and the shadow that names a wrong kernel.
#include "runtime/device/target.h"

#include <catch2/catch.hpp>

#include "../io/temporary.h"
#include "emulated.h"
#include "trained.h"

namespace longhaul {
namespace {

using namespace testing;

Cell cell_of(DType dtype, std::unique_ptr<Target> (*device)(int)) {
  Cell cell{.spec = small_llama(), .data = 2, .zero_stage = 3, .micro_batches = 2, .rows = 2, .dtype = dtype};
  cell.device = device;
  return cell;
}

// How far two runs' losses are apart.
double apart(const Trained& a, const Trained& b) {
  double worst = 0;
  REQUIRE(a.losses.size() == b.losses.size());
  for (std::size_t i = 0; i < a.losses.size(); ++i)
    worst = std::max(worst, std::abs(a.losses[i] - b.losses[i]) / std::abs(b.losses[i]));
  return worst;
}

}  // namespace

TEST_CASE("checkpoints go from CPU ranks to device ranks and back; a run is the same to the bit every time",
          "[threads]") {
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    INFO(name_of(dtype));
    const Cell cpu = cell_of(dtype, nullptr), device = cell_of(dtype, emulated);
    const longhaul_test::TemporaryFolder there, again, only;
    const Trained begun = train(cpu, there.path(), 1, 2), all = train(cpu, only.path(), 1, 6);
    const Trained went_on = train(device, there.path(), 3, 4), back = train(cpu, there.path(), 5, 6);
    CHECK((went_on.loaded == begun.state));
    CHECK((back.loaded == went_on.state));
    Trained mixed = begun;
    for (const auto* part : {&went_on, &back})
      mixed.losses.insert(mixed.losses.end(), part->losses.begin(), part->losses.end());
    CHECK(apart(mixed, all) < (dtype == DType::float32 ? 1e-4 : 3e-2));

    const Trained whole = train(device, again.path(), 1, 4);
    const longhaul_test::TemporaryFolder once_more;
    const Trained twice = train(device, once_more.path(), 1, 4);
    CHECK(whole.losses == twice.losses);
    CHECK((whole.state == twice.state));
    // In two runs as in one.
    const longhaul_test::TemporaryFolder halves;
    train(device, halves.path(), 1, 2);
    CHECK((train(device, halves.path(), 3, 4).state == whole.state));
  }
}

TEST_CASE("LONGHAUL_KERNELS=reference takes the last of each list, and is as near", "[threads]") {
  const longhaul_test::TemporaryFolder a, b;
  Cell cell = cell_of(DType::bfloat16, generic);
  cell.spec.hidden_size = 64;
  cell.spec.layers[0].layer.attention.head_dim = cell.spec.layers[0].layer.rope.rotary_dim = 64;
  const Trained plain = train(cell, a.path(), 1, 1);
  cell.device = emulated;
  const Trained fast = train(cell, b.path(), 1, 1);
  CHECK((plain.state != fast.state));  // not the same kernels
  CHECK(apart(plain, fast) < 3e-2);
}

TEST_CASE("a step allocates nothing, and waits only for what the host reads") {
  Cell cell{.spec = small_llama(), .micro_batches = 2, .rows = 2, .dtype = DType::float32};
  cell.device = emulated;
  const CompileRequest request = request_for(cell);
  const CompiledModel model = compile_model(request);
  run_threads(1, [&](Communicator& world) {
    const std::unique_ptr<Target> target = cell.target();
    Session session(world, *target, request, model);
    const cuda::Api& api = static_cast<DeviceTarget&>(*target).device().api();
    session.set_parameters(random_parameters(cell.spec, 11));
    const auto step = [&](int number) {
      session.step(number, 1e-2, 2, [&](std::int64_t i) {
        fill_slice(session, make_batch(cell.spec, 2, 16, static_cast<int>(number * 10 + i), Masking::plain), 16);
      });
    };
    step(1);
    cuda::Counters before, after;
    api.counters(&before);
    step(2);
    api.counters(&after);
    CHECK(after.allocations == before.allocations);
    // For the losses of two micro-batches and the norm, all together.
    CHECK(after.synchronisations - before.synchronisations == 1);
    CHECK(after.launches > before.launches);
    return 0;
  });
}

TEST_CASE("buffers of a device are read and written within their bytes, in pieces of any size") {
  Cell cell{.spec = small_llama(), .rows = 2, .dtype = DType::float32};
  cell.device = emulated;
  cell.spec.vocabulary = 120'001;  // of a hidden size of 16: more than is uploaded at once
  const CompileRequest request = request_for(cell);
  const CompiledModel model = compile_model(request);
  run_threads(1, [&](Communicator& world) {
    const std::unique_ptr<Target> target = cell.target();
    Session session(world, *target, request, model);
    Executor& executor = session.executor();
    CHECK(executor.host_view("tokens").empty());
    const StateTensor& tensor = session.state("embedding.tokens");
    const auto bytes = static_cast<std::size_t>(tensor.elements() * 4);
    CHECK(bytes > std::size_t{4} << 20);
    std::vector<std::byte> sent(bytes), got(bytes);
    for (std::size_t i = 0; i < bytes; ++i) sent[i] = static_cast<std::byte>(i * 2654435761u >> 13);
    executor.write("embedding.tokens", 0, sent);
    executor.read("embedding.tokens", 0, got);
    CHECK(sent == got);
    executor.read("embedding.tokens", 5, std::span(got).first(7));
    CHECK(std::equal(got.begin(), got.begin() + 7, sent.begin() + 5));
    CHECK_THROWS_AS(executor.write("embedding.tokens", 1, sent), std::logic_error);
    CHECK_THROWS_AS(executor.zero("token"), std::logic_error);
    executor.zero("embedding.tokens");
    executor.read("embedding.tokens", 0, got);
    CHECK(got == std::vector<std::byte>(bytes));
    return 0;
  });
}

TEST_CASE("what a device cannot compute is refused when it is planned, with the reason") {
  DeviceTarget target({}, cuda::Backend::emulator);
  Cell cell{.spec = small_llama(), .rows = 2, .dtype = DType::float64};
  cell.device = emulated;
  CHECK_THROWS_WITH(compile_model(request_for(cell)),
                    Catch::Contains("no kernel takes") && Catch::Contains("not in float64"));
  cell.dtype = DType::float32;
  cell.spec.layers[0].layer.attention.head_dim = 260;
  CHECK_THROWS_WITH(compile_model(request_for(cell)), Catch::Contains("a head dimension of 260, more than 256"));
  CHECK_THROWS_WITH(target.set_library_policy({.only = "onednn"}, DType::float32, "training.matmul"),
                    Catch::Contains("training.matmul is onednn, a library of CPUs"));
  CHECK(target.name() == "emulator");
  CHECK(target.libraries() == "{}");
  CHECK(target.peak_flops(DType::bfloat16) > 1e8);
}

TEST_CASE("the shadow names a kernel that computes something else") {
  Cell cell{.spec = small_llama(), .rows = 2, .dtype = DType::float32};
  cell.device = emulated;
  const CompileRequest request = request_for(cell);
  const CompiledModel model = compile_model(request);
  DeviceContext context(cuda::Backend::emulator);
  context.device().select(0);
  DeviceKernelCache kernels(context, false);
  Shadow shadow;
  const Graph& graph = model.all().back()->graph;
  for (const Program* program : model.all())
    for (const Op& op : program->graph.ops) {
      if (!op.is("rms_norm")) continue;
      const auto kernel = kernels.get(program->graph, op);
      const LocalOp local(program->graph, op, false);
      const auto elements = [&](const TensorType& type) { return static_cast<std::size_t>(type.bytes()); };
      const DeviceMemory x(context.device(), DeviceMemory::Place::device, elements(local.operands[0])),
          weight(context.device(), DeviceMemory::Place::device, elements(local.operands[1])),
          y(context.device(), DeviceMemory::Place::device, elements(local.results[0]));
      std::vector<float> values(static_cast<std::size_t>(local.operands[0].count()));
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 7) - 2.5f;
      context.succeed(context.api().copy(x.data(), values.data(), elements(local.operands[0]), nullptr));
      context.succeed(context.api().copy(weight.data(), values.data(), elements(local.operands[1]), nullptr));
      const std::vector<const void*> operands = {x.data(), weight.data()};
      void* const result = y.data();
      const DeviceCall call{operands.data(), &result, nullptr, context};
      CHECK_NOTHROW(shadow.run(program->graph, op, *kernel, call));
      CHECK(shadow.checked() == 1);
      DeviceKernel wrong = *kernel;
      wrong.name = "wrong";
      wrong.run = [&](const DeviceCall& one) {
        kernel->run(one);
        context.succeed(context.api().fill(result, 0, 64, context.stream()));
      };
      CHECK_THROWS_WITH(shadow.run(program->graph, op, wrong, call),
                        Catch::Contains("kernel wrong and the CPU's reference kernel disagree about result 0"));
      return;
    }
  FAIL("no norm in " << graph.name);
}

}  // namespace longhaul
