// Whole programs on an emulated device of waves of 64 lanes in lock step: the portable and generic kernels, as on AMD's
// CDNA.
#include <catch2/catch.hpp>
#include <set>

#include "../proof/matrix.h"
#include "emulated.h"
#include "runtime/device/kernel.h"

namespace longhaul {
namespace {

using namespace testing;

std::set<std::string> attention_kernels(const Cell& cell) {
  const CompiledModel model = compile_model(request_for(cell));
  DeviceContext context(cuda::Backend::emulator);
  DeviceKernelCache kernels(context, false);
  std::set<std::string> names;
  for (const Program* program : model.all())
    for (const Op& op : program->graph.ops)
      if (op.is("attention") || op.is("attention_gradient")) names.insert(kernels.get(program->graph, op)->name);
  return names;
}

void run(const Cell& cell) {
  std::string problem;
  CHECK_NOTHROW(run_ranks(cell, problem));
  CHECK(problem == "");
}

}  // namespace

TEST_CASE("programs on waves of 64 lanes take the portable kernels, and give what the CPU's reference kernels give",
          "[threads]") {
  const WavesOf64 waves;
  for (const std::int64_t head_dim : {64, 40, 24, 96}) {
    INFO("head_dim " << head_dim);
    Cell cell{.spec = small_llama(), .masking = Masking::packed, .dtype = DType::bfloat16};
    auto& attention = cell.spec.layers[0].layer.attention;
    attention.head_dim = cell.spec.layers[0].layer.rope.rotary_dim = head_dim;
    cell.device = checked;
    // A block's shared memory has no room for tiles of 128.
    CHECK(attention_kernels(cell) == std::set<std::string>{head_dim == 64   ? "portable"
                                                           : head_dim == 40 ? "padded_portable"
                                                                            : "generic"});
    run(cell);
  }
  for (std::size_t family = 0; family < families().size(); ++family)
    for (const std::size_t dtype : {std::size_t{1}, std::size_t{2}}) {
      const CellIndex index = {family, 0, 3, 3, dtype};
      INFO(name_of_cell(index));
      Cell cell = cell_of(index);
      cell.device = checked;
      run(cell);
    }
}

TEST_CASE("ranks whose devices have waves of 64 lanes write into each other's memory", "[threads]") {
  const WavesOf64 waves;
  Cell cell{.spec = small_llama(), .sequence_ranks = 2, .zero_stage = 3, .masking = Masking::packed};
  cell.dtype = DType::bfloat16;
  cell.device = by_push;
  std::string problem;
  const Outcome pushed = run_ranks(cell, problem);
  CHECK(problem == "");
  cell.device = emulated;
  const Outcome staged = run_ranks(cell, problem);
  CHECK(problem == "");
  CHECK(pushed.parameters == staged.parameters);
  const cuda::Api& api = cuda::require_backend(cuda::Backend::emulator);
  CHECK(api.configure("wave", "48") != 0);
  CHECK_THAT(api.last_error(), Catch::Contains("waves of 32 and of 64 lanes"));
}

}  // namespace longhaul
