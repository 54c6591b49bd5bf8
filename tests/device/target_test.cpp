// A device as a target: sessions, checkpoints that travel between CPUs and devices, what a step asks of the device,
// and what is refused.
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

Tensors losses_and_norms(const Trained& trained) {
  Tensors tensors;
  for (std::size_t i = 0; i < trained.losses.size(); ++i)
    tensors[i % 2 ? "norms" : "losses"].push_back(trained.losses[i]);
  return tensors;
}

// As near to float64 as one rank on a CPU, by the rule of src/verify/compare.h: losses and norms of as many steps.
void check_near(const Trained& trained, Cell cell) {
  cell.data = 1;
  cell.zero_stage = 0;
  cell.device = nullptr;
  const auto one_rank = [&](DType dtype) {
    const longhaul_test::TemporaryFolder folder;
    cell.dtype = dtype;
    return losses_and_norms(train(cell, folder.path(), 1, static_cast<int>(trained.losses.size() / 2)));
  };
  const DType dtype = cell.dtype;
  const Tensors alone = one_rank(dtype), wanted = one_rank(DType::float64);
  const LowPrecisionLimits limits(alone, wanted, unit_roundoff(dtype));
  for (const auto& [name, error] : tensor_errors(losses_and_norms(trained), wanted)) {
    INFO(name << ": error " << error << ", allowed " << limits.of_tensor(name));
    CHECK(error <= limits.of_tensor(name));
  }
}

}  // namespace

TEST_CASE("checkpoints go from CPU ranks to device ranks and back; a run is the same to the bit every time",
          "[threads]") {
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    INFO(name_of(dtype));
    const Cell cpu = cell_of(dtype, nullptr), device = cell_of(dtype, emulated);
    const longhaul_test::TemporaryFolder there, again;
    const Trained begun = train(cpu, there.path(), 1, 2);
    const Trained went_on = train(device, there.path(), 3, 4), back = train(cpu, there.path(), 5, 6);
    CHECK((went_on.loaded == begun.state));
    CHECK((back.loaded == went_on.state));
    Trained mixed = begun;
    for (const auto* part : {&went_on, &back})
      mixed.losses.insert(mixed.losses.end(), part->losses.begin(), part->losses.end());
    check_near(mixed, cpu);

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
  check_near(plain, cell);
  check_near(fast, cell);
}

TEST_CASE("a step allocates nothing, and waits only for what the host reads", "[threads]") {
  // Ranks and the way of their messages; whether values go to host memory meanwhile.
  struct Case {
    int ranks;
    std::unique_ptr<Target> (*device)(int);
    DType dtype;
    bool offload = false;
  };
  for (const Case& one : {Case{1, emulated, DType::float32}, Case{1, emulated, DType::bfloat16, true},
                          Case{2, by_nccl, DType::bfloat16, true}, Case{2, by_push, DType::float32}}) {
    Cell cell{.spec = small_llama(), .sequence_ranks = one.ranks, .micro_batches = 2, .rows = 2, .dtype = one.dtype};
    cell.zero_stage = one.ranks > 1 ? 3 : 0;
    cell.device = one.device;
    if (one.offload) {
      cell.spec.layers[0].repeat = 3;
      cell.activations = ActivationMode::keep;
      cell.offload_values = 1000;
    }
    const CompileRequest request = request_for(cell);
    const CompiledModel model = compile_model(request);
    CHECK((model.host_bytes > 0) == one.offload);
    std::vector<cuda::Counters> before(static_cast<std::size_t>(one.ranks)), after(before.size());
    run_threads(one.ranks, [&](Communicator& world) {
      const std::unique_ptr<Target> target = cell.target();
      Session session(world, *target, request, model);
      const cuda::Api& api = static_cast<DeviceTarget&>(*target).device().api();
      session.set_parameters(random_parameters(cell.spec, 11));
      const auto step = [&](int number) {
        session.step(number, 1e-2, 2, [&](std::int64_t i) {
          fill_slice(session, make_batch(cell.spec, 2, 16, static_cast<int>(number * 10 + i), Masking::plain), 16);
        });
      };
      const auto rank = static_cast<std::size_t>(world.rank());
      step(1);
      api.counters(&before[rank]);
      step(2);
      api.counters(&after[rank]);
      return 0;
    });
    for (std::size_t rank = 0; rank < before.size(); ++rank) {
      INFO(cell.text() << ", rank " << rank);
      CHECK(after[rank].allocations == before[rank].allocations);
      // For the losses of two micro-batches and the norm, all together.
      CHECK(after[rank].synchronisations - before[rank].synchronisations == 1);
      CHECK(after[rank].launches > before[rank].launches);
    }
  }
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

}  // namespace longhaul
