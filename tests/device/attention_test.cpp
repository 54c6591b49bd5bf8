// Heads of sizes that no fast kernel has, padded onto those that there are: on a device what CPUs compute, op by op,
// for whole sequences, windows, gathered keys and rings, whose gradients add to what is there.
#include <catch2/catch.hpp>
#include <set>

#include "../proof/matrix.h"
#include "emulated.h"
#include "runtime/device/kernel.h"

namespace longhaul {
namespace {

using namespace testing;

// The kernels that the attention ops of a cell's programs are given.
std::set<std::string> attention_kernels(const Cell& cell,
                                        DeviceContext&& context = DeviceContext(cuda::Backend::emulator)) {
  const CompiledModel model = compile_model(request_for(cell));
  DeviceKernelCache kernels(context, false);
  std::set<std::string> names;
  for (const Program* program : model.all())
    for (const Op& op : program->graph.ops)
      if (op.definition->name.rfind("attention", 0) == 0 && !op.is("attention_delta") && !op.is("attention_merge"))
        names.insert(op.definition->name + " " + kernels.get(program->graph, op)->name);
  return names;
}

Cell cell_of(std::int64_t head_dim, DType dtype = DType::bfloat16) {
  Cell cell{.spec = small_llama(), .masking = Masking::packed, .dtype = dtype};
  auto& attention = cell.spec.layers[0].layer.attention;
  attention.head_dim = cell.spec.layers[0].layer.rope.rotary_dim = head_dim;
  cell.device = checked;  // every op beside the CPU's
  return cell;
}

}  // namespace

TEST_CASE("heads are padded onto the fast kernels where that computes at most twice as much", "[threads]") {
  using Names = std::set<std::string>;
  for (const std::int64_t head_dim : {32, 40, 80, 112}) {
    INFO("head_dim " << head_dim);
    const Cell cell = cell_of(head_dim);
    CHECK(attention_kernels(cell) == Names{"attention padded_hopper", "attention_gradient padded_hopper"});
    std::string problem;
    CHECK_NOTHROW(run_ranks(cell, problem));
    CHECK(problem == "");
  }
  // Backward there is no kernel of 256.
  const Cell wide = cell_of(160);
  CHECK(attention_kernels(wide) == Names{"attention padded_hopper", "attention_gradient generic"});
  std::string problem;
  CHECK_NOTHROW(run_ranks(wide, problem));
  CHECK(problem == "");
  CHECK(attention_kernels(cell_of(24)) == Names{"attention generic", "attention_gradient generic"});
  CHECK(attention_kernels(cell_of(64)) == Names{"attention hopper", "attention_gradient hopper"});
  CHECK(attention_kernels(cell_of(80, DType::float32)) == Names{"attention generic", "attention_gradient generic"});
}

TEST_CASE("a library without attention on matrix units gives programs its generic kernels, and says why") {
  cuda::Api api = DeviceContext(cuda::Backend::emulator).api();
  const Cell fits = cell_of(64), padded = cell_of(80);
  for (const int missing : {0, 1}) {
    const cuda::Api whole = api;
    if (missing)
      api.attention_backward = nullptr;
    else
      api.attention_forward = nullptr;
    for (const Cell& cell : {fits, padded})
      CHECK(attention_kernels(cell, DeviceContext(cuda::Backend::emulator, api)) ==
            std::set<std::string>{"attention generic", "attention_gradient generic"});
    DeviceContext context(cuda::Backend::emulator, api);
    const CompiledModel model = compile_model(request_for(fits));
    int asked = 0;
    for (const Program* program : model.all())
      for (const Op& op : program->graph.ops) {
        if (!op.is("attention") && !op.is("attention_gradient")) continue;
        DeviceKernel kernel;
        std::string reason;
        const auto& first = KernelTable<DeviceContext>::instance().candidates(op.definition->name)[0];
        CHECK(!first.make(DeviceProblem(program->graph, op, false, context), kernel, reason));
        CHECK(reason == "the device's library has no attention on matrix units");
        ++asked;
      }
    CHECK(asked >= 2);
    api = whole;
  }
}

TEST_CASE("padded heads in rings and gathered keys, where gradients are sums in float32", "[threads]") {
  for (const bool ring : {true, false}) {
    INFO((ring ? "ring" : "gathered keys"));
    Cell cell = cell_of(40);
    (ring ? cell.ring : cell.gather) = 2;
    cell.zero_stage = 1;
    std::set<std::string> ops;
    for (const std::string& name : attention_kernels(cell)) {
      CHECK(name.find(" padded_hopper") != std::string::npos);
      ops.insert(name.substr(0, name.find(' ')));
    }
    CHECK(ops.contains("attention_block_gradient_add") == ring);
    std::string problem;
    CHECK_NOTHROW(run_ranks(cell, problem));
    CHECK(problem == "");
  }
}

}  // namespace longhaul
