// Whole programs of many models, splits and stages on the emulator: as near to the specification as one rank on a CPU
// allows (tests/proof/matrix.h).
#include <catch2/catch.hpp>

#include "../proof/covering.h"
#include "../proof/matrix.h"
#include "emulated.h"

namespace longhaul {
namespace {

using namespace testing;

Cell cell_on(const CellIndex& index, std::unique_ptr<Target> (*device)(int)) {
  Cell cell = cell_of(index);
  cell.device = device;
  return cell;
}

// In low precisions any two values of other dimensions occur together.
std::vector<CellIndex> sample() {
  const auto sizes = matrix_sizes();
  std::vector<CellIndex> chosen;
  for (const std::size_t number : covering(sizes, 2)) {
    const auto row = row_of_product(number, sizes);
    if (matrix_dtypes[row[4]] != DType::float64) chosen.push_back({row[0], row[1], row[2], row[3], row[4]});
  }
  return chosen;
}

}  // namespace

TEST_CASE("every op of every family's programs gives what the CPU's reference kernel gives", "[threads]") {
  // One rank, rings with windows, heads and gathered keys: all kinds of op.
  for (std::size_t family = 0; family < families().size(); ++family)
    for (const std::size_t split : {std::size_t{0}, std::size_t{3}, std::size_t{9}})
      for (const std::size_t dtype : {std::size_t{1}, std::size_t{2}}) {
        const CellIndex index = {family, split, split == 0 ? 3u : 1u, 3, dtype};
        INFO(name_of_cell(index));
        Cell cell = cell_on(index, checked);
        std::string problem;
        CHECK_NOTHROW(run_ranks(cell, problem));
        CHECK(problem == "");
        if (split != 0) continue;
        cell.data = cell.sequence_ranks = cell.ring = cell.gather = 1;
        CHECK_NOTHROW(run_ranks(cell, problem));
      }
}

TEST_CASE("attention in chunks of heads gives on a device what the CPU's reference kernels give", "[threads]") {
  // Four query heads of a KV head a rank, whose dk and dv go on from chunk to chunk; by the kernels on tensor cores and
  // by the others.
  for (const auto& [head_dim, dtype] : {std::pair{64, DType::bfloat16}, {8, DType::bfloat16}, {8, DType::float32}}) {
    Cell cell{.spec = small_llama(), .sequence_ranks = 2, .zero_stage = 3, .masking = Masking::packed, .dtype = dtype};
    cell.spec.layers = {{1, small_layer(8, 2, head_dim, 24)}};
    cell.activations = ActivationMode::recompute;
    cell.device = checked;
    const CompiledModel model = compile_model(request_for(cell));
    const auto& ops = model.program(ProgramKind::accumulate_only).graph.ops;
    CHECK(std::count_if(ops.begin(), ops.end(), [](const Op& op) { return op.is("attention_gradient_add"); }) == 3);
    std::string problem;
    CHECK_NOTHROW(run_ranks(cell, problem));
    CHECK(problem == "");
  }
}

TEST_CASE("a covering sample of the matrix in low precisions, on the emulator", "[threads]") {
  References references;
  Worst worst;
  for (const CellIndex& index : sample()) {
    INFO(name_of_cell(index));
    const Cell cell = cell_on(index, emulated);
    std::string problem;
    const Outcome outcome = run_ranks(cell, problem);
    if (problem.empty()) problem = judge(index, cell, outcome, references, worst);
    CHECK(problem == "");
  }
}

TEST_CASE("what waits in pinned host memory changes no bit of a device's step", "[threads]") {
  Cell cell{.spec = small_llama(), .sequence_ranks = 2, .zero_stage = 3, .micro_batches = 2, .dtype = DType::bfloat16};
  cell.spec.layers[0].repeat = 4;
  cell.masking = Masking::packed;
  cell.activations = ActivationMode::keep;
  for (const auto device : {emulated, checked}) {
    cell.device = device;
    std::string problem;
    cell.offload_values = 0;
    const Outcome kept = run_ranks(cell, problem);
    cell.offload_values = 1000;
    CHECK(compile_model(request_for(cell)).host_bytes > 0);
    const Outcome moved = run_ranks(cell, problem);
    CHECK(problem == "");
    CHECK(moved.first.loss == kept.first.loss);
    CHECK(moved.second.loss == kept.second.loss);
    CHECK(moved.gradients == kept.gradients);
    CHECK(moved.parameters == kept.parameters);
  }
}

}  // namespace longhaul
