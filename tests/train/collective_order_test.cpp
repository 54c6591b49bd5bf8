// All ranks issue the same collectives in the same order: derived for every rank of every strategy; and a rank that was
// compiled otherwise, or whose program was tampered with, is refused before it can hang the others.
#include "runtime/collective_order.h"

#include <algorithm>
#include <catch2/catch.hpp>

#include "ranks.h"

namespace longhaul {
namespace {

using namespace testing;

// What a launch says when rank `other` compiles `theirs` and the rest `cell`; `tamper` changes that rank's model.
std::string refusal(const Cell& cell, const Cell& theirs, const std::function<void(CompiledModel&)>& tamper = nullptr,
                    int other = 1) {
  try {
    run_threads(cell.world(), [&](Communicator& world) {
      const CompileRequest request = request_for(world.rank() == other ? theirs : cell);
      CompiledModel model = compile_model(request);
      if (world.rank() == other && tamper) tamper(model);
      CpuTarget cpu;
      Session session(world, cpu, request, model);
      return 0;
    });
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

std::vector<Cell> cells() {
  std::vector<Cell> all;
  for (const auto& [data, ulysses, ring, gather] : {std::tuple{2, 2, 1, 1}, {1, 2, 2, 1}, {1, 2, 1, 2}, {1, 1, 3, 1}})
    for (const int stage : {0, 1, 2, 3})
      all.push_back({.spec = small_qwen3(),
                     .data = data,
                     .sequence_ranks = ulysses,
                     .zero_stage = stage,
                     .micro_batches = 3,
                     .rows = 2,
                     .sequence = 24,
                     .dtype = DType::bfloat16,
                     .ring = ring,
                     .gather = gather,
                     .order = ring > 1 ? TokenOrder::zigzag : TokenOrder::contiguous});
  return all;
}

}  // namespace

TEST_CASE("every rank of every strategy and stage issues the same collectives in the same order") {
  for (const Cell& cell : cells()) {
    INFO(cell.text());
    const CompiledModel model = compile_model(request_for(cell));
    const auto first = collective_order(model.all(), 0);
    std::size_t collectives = 0;
    for (const auto& program : model.programs)
      for (const TrafficRow& row : predicted_traffic("", *program, 0))
        collectives += static_cast<std::size_t>(row.calls);
    CHECK(first.size() == collectives + 2 * model.programs.size());
    for (int rank = 1; rank < cell.world(); ++rank) CHECK(collective_order(model.all(), rank) == first);
  }
}

TEST_CASE("a rank that was compiled otherwise is refused, with the first collective that differs", "[threads]") {
  const Cell cell{.spec = small_llama(), .data = 2, .sequence_ranks = 2, .zero_stage = 1};
  CHECK(refusal(cell, cell) == "");
  Cell other = cell;
  other.zero_stage = 0;
  CHECK_THAT(refusal(cell, other), Catch::Contains("rank 1: would not issue the collectives that rank 0 issues") &&
                                       Catch::Contains("here:   accumulate_only: all_reduce over dp.ulysses of") &&
                                       Catch::Contains("rank 0: accumulate_only: reduce_scatter over dp.ulysses of") &&
                                       Catch::Contains("same build"));
  other = cell;
  other.sequence = 20;
  CHECK_THAT(refusal(cell, other, nullptr, 3), Catch::Contains("rank 3: ") && Catch::Contains("bytes sent"));
  other = cell;
  other.sequence_ranks = 1;
  other.ring = 2;
  CHECK_THAT(refusal(cell, other),
             Catch::Contains("on the mesh dp=2, ring=2") && Catch::Contains("on the mesh dp=2, ulysses=2"));
  other = cell;
  other.micro_batches = 2;
  CHECK_THAT(refusal(cell, other), Catch::Contains("here:   accumulate_first on the mesh") &&
                                       Catch::Contains("rank 0: accumulate_only on the mesh"));
}

TEST_CASE("a rank with another count of tiles is refused", "[threads]") {
  Cell cell{.spec = small_llama(), .sequence_ranks = 2, .zero_stage = 1, .rows = 1, .sequence = 32};
  cell.activations = ActivationMode::recompute;
  cell.tile_rows = 4;
  Cell other = cell;
  other.tile_rows = 8;
  CHECK(refusal(cell, cell) == "");
  CHECK_THAT(refusal(cell, other), Catch::Contains("here:   accumulate_only: ") &&
                                       Catch::Contains(" instructions in all") && Catch::Contains("same build"));
}

TEST_CASE("two collectives in another order on one rank are refused", "[threads]") {
  const Cell cell{.spec = small_llama(), .sequence_ranks = 2, .zero_stage = 3};
  const auto swap_two = [](CompiledModel& model) {
    auto& ops = model.programs[model.index(ProgramKind::accumulate_only)]->graph.ops;
    const auto is = [](std::string_view name) { return [name](const Op& op) { return op.is(name); }; };
    std::iter_swap(std::find_if(ops.begin(), ops.end(), is("all_gather")),
                   std::find_if(ops.begin(), ops.end(), is("all_to_all")));
  };
  CHECK_THAT(refusal(cell, cell, swap_two), Catch::Contains("here:   accumulate_only: all_to_all over ulysses") &&
                                                Catch::Contains("rank 0: accumulate_only: all_gather over ulysses"));
}

}  // namespace longhaul
