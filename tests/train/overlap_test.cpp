// parallelism.overlap: two steps are the same bits whether collectives run beside computation or take turns with it,
// the arena is as planned (run_ranks) and within the limit; what a rank's program says otherwise than the others' is
// refused.
#include <algorithm>
#include <catch2/catch.hpp>

#include "ir/op_definition.h"
#include "ranks.h"
#include "runtime/collective_order.h"

namespace longhaul {
namespace {

using namespace testing;

// Collectives between whose start and wait something else stands.
std::int64_t beside(const CompiledModel& model) {
  std::int64_t count = 0;
  for (const Program* program : model.all()) {
    const auto& ops = program->graph.ops;
    for (std::size_t i = 0; i + 1 < ops.size(); ++i)
      count += ops[i].definition->half == Half::start && ops[i].definition->communication &&
               !(ops[i + 1].definition->half == Half::wait && ops[i + 1].operands[0] == ops[i].results[0]);
  }
  return count;
}

void check_same_bits(Cell cell) {
  std::string problem;
  INFO(cell.text());
  cell.bucket_size = 1024;  // several a layer
  for (const ActivationMode mode : {ActivationMode::keep, ActivationMode::recompute}) {
    cell.activations = mode;
    cell.overlap_memory = 0;
    const CompiledModel without = compile_model(request_for(cell));
    const Outcome turns = run_ranks(cell, problem);
    CHECK(problem == "");
    REQUIRE(turns.first.loss > 0);
    CHECK(beside(without) == 0);
    const std::int64_t room = without.arena_bytes - without.named.bytes;
    for (const std::int64_t memory : {any_memory, room}) {
      INFO("mode " << static_cast<int>(mode) << ", " << memory << " bytes");
      cell.overlap_memory = memory;
      CHECK(beside(compile_model(request_for(cell))) > 0);
      const Outcome both = run_ranks(cell, problem);
      CHECK(problem == "");
      check_same_bits(both, turns);
    }
  }
}

}  // namespace

TEST_CASE("collectives beside computation change no bit of a step", "[threads]") {
  TransformerSpec deep = small_llama(), unlike = small_llama();
  deep.layers[0].repeat = 3;
  LayerSpec both = small_layer(8, 2, 8, 16), parallel = small_layer(4, 1, 8, 24);
  both.norm_placement = NormPlacement::both;
  both.attention.window = 5;
  parallel.branches = Branches::parallel_shared_norm;
  unlike.layers = {{1, both}, {1, parallel}};
  using enum Masking;
  const DType narrow = DType::bfloat16, wide = DType::float32, exact = DType::float64;
  for (const Cell& cell :
       {Cell{.spec = deep, .data = 2, .zero_stage = 0, .dtype = narrow},
        Cell{
            .spec = deep, .sequence_ranks = 2, .zero_stage = 3, .micro_batches = 3, .masking = packed, .dtype = narrow},
        Cell{.spec = small_gpt2(), .data = 2, .sequence_ranks = 2, .zero_stage = 1, .masking = uneven, .dtype = wide},
        Cell{.spec = small_qwen3(),
        .zero_stage = 3,
        .micro_batches = 2,
        .masking = packed,
        .dtype = narrow,
        .ring = 3,
        .order = TokenOrder::zigzag},
        Cell{.spec = deep, .data = 2, .zero_stage = 2, .masking = packed, .dtype = narrow, .gather = 2},
        Cell{.spec = deep, .data = 4, .zero_stage = 3, .micro_batches = 2, .rows = 4, .dtype = wide, .shard_group = 2},
        Cell{.spec = unlike,
        .sequence_ranks = 2,
        .zero_stage = 3,
        .micro_batches = 2,
        .masking = packed,
        .dtype = exact,
        .threads = 2,
        .gathered = KeepGathered::step}})
    check_same_bits(cell);
}

TEST_CASE("collectives take only the memory that there is") {
  Cell cell{.spec = small_llama(), .sequence_ranks = 2, .zero_stage = 3, .sequence = 32, .dtype = DType::bfloat16};
  cell.spec.layers[0].repeat = 4;
  cell.bucket_size = 1024;
  CompileRequest request = request_for(cell);
  const CompiledModel turns = compile_model(request);
  request.options.schedule.overlap_memory = any_memory;
  const CompiledModel all = compile_model(request);
  CHECK(all.arena_bytes > turns.arena_bytes);
  CHECK(all.overlap_memory == std::vector<std::int64_t>(all.programs.size(), any_memory));
  std::int64_t least = beside(all) + 1;
  for (const std::int64_t limit : {all.arena_bytes, (all.arena_bytes + turns.arena_bytes) / 2, turns.arena_bytes}) {
    request.memory_limit = limit;
    const CompiledModel some = compile_model(request);
    CHECK(some.arena_bytes <= limit);
    CHECK(beside(some) > 0);  // where the program holds little there is room
    CHECK(beside(some) <= least);
    least = beside(some);
    UNSCOPED_INFO(limit << ": " << least << ", " << some.arena_bytes);
  }
  request.memory_limit = turns.arena_bytes - 1;
  CHECK_THROWS_WITH(compile_model(request), Catch::Contains("device.memory"));
}

TEST_CASE("ranks whose halves stand at other places are refused", "[threads]") {
  Cell cell{.spec = small_llama(), .sequence_ranks = 2, .zero_stage = 3};
  cell.overlap_memory = any_memory;
  const auto refusal = [&](const std::function<void(std::vector<Op>&)>& tamper) -> std::string {
    try {
      run_threads(2, [&](Communicator& world) {
        const CompileRequest request = request_for(cell);
        CompiledModel model = compile_model(request);
        if (world.rank() == 1) tamper(model.programs[model.index(ProgramKind::accumulate_only)]->graph.ops);
        CpuTarget cpu;
        Session session(world, cpu, request, model);
        return 0;
      });
    } catch (const std::exception& error) {
      return error.what();
    }
    return "";
  };
  const auto is = [](std::string_view name) { return [name](const Op& op) { return op.is(name); }; };
  CHECK(refusal([](std::vector<Op>&) {}) == "");
  CHECK_THAT(refusal([&](std::vector<Op>& ops) {  // a start before another one
               const auto first = std::find_if(ops.begin(), ops.end(), is("all_gather.start"));
               std::iter_swap(first, std::find_if(first + 1, ops.end(), is("all_gather.start")));
             }),
             Catch::Contains("rank 1: would not issue") && Catch::Contains("all_gather.start over ulysses"));
  CHECK_THAT(
      refusal([&](std::vector<Op>& ops) {  // a wait later
        const auto wait = std::find_if(ops.begin(), ops.end(), is("all_gather.wait"));
        std::iter_swap(wait, wait + 1);
      }),
      Catch::Contains("rank 1: would not issue") && Catch::Contains("all_gather.wait, link gather, instruction"));
  CHECK_THAT(
      refusal([&](std::vector<Op>& ops) { ops.erase(std::find_if(ops.begin(), ops.end(), is("all_gather.wait"))); }),
      Catch::Contains("rank 1: would not issue"));
}

}  // namespace longhaul
