// activation_memory: losses, norms, gradients and parameters of two steps are the same bits whatever is made again, the
// arena is as planned, and a budget is kept to the byte or refused with the least that would do.
#include <catch2/catch.hpp>

#include "base/environment.h"
#include "base/sanitizers.h"
#include "plan/activations.h"
#include "ranks.h"
#include "run/setup.h"
#include "small_experiment.h"

namespace longhaul {
namespace {

using namespace testing;

void check_same_bits(Cell cell) {
  std::string problem;
  cell.activations = ActivationMode::keep;
  const Outcome kept = run_ranks(cell, problem);
  INFO(cell.text());
  CHECK(problem == "");
  REQUIRE(kept.first.loss > 0);
  const auto check = [&](const Cell& other) {
    const Outcome again = run_ranks(other, problem);
    CHECK(problem == "");
    check_same_bits(again, kept);
  };
  for (const ActivationMode mode : {ActivationMode::automatic, ActivationMode::recompute}) {
    cell.activations = mode;
    check(cell);
  }
  cell.activations = ActivationMode::automatic;
  cell.recompute_steps = {2, 0, 5};  // each layer another
  check(cell);
  cell.recompute_steps = {99, 99, 99};  // attention too
  check(cell);
}

int most_of_a_program(const CompiledModel& model, std::string_view name) {
  int most = 0;
  for (const Program* program : model.all()) {
    const auto& ops = program->graph.ops;
    most = std::max(most,
                    static_cast<int>(std::count_if(ops.begin(), ops.end(), [&](const Op& op) { return op.is(name); })));
  }
  return most;
}
int most_of_a_program(const Cell& cell, std::string_view name) {
  return most_of_a_program(compile_model(request_for(cell)), name);
}
bool has_tiles(const Cell& cell) {
  return most_of_a_program(cell, "put_rows") > 0;
}

}  // namespace

TEST_CASE("what is made again changes no bit of a step", "[threads]") {
  TransformerSpec unlike = small_llama();
  LayerSpec both = small_layer(8, 2, 8, 16), parallel = small_layer(4, 1, 8, 24);
  both.norm_placement = NormPlacement::both;
  both.attention.soft_cap = 0.7;
  both.attention.window = 5;
  parallel.branches = Branches::parallel_shared_norm;
  unlike.layers = {{1, both}, {1, parallel}};
  using enum Masking;
  const DType narrow = DType::bfloat16, wide = DType::float32, exact = DType::float64;
  for (const Cell& cell :
       {Cell{.spec = small_llama(), .zero_stage = 0, .dtype = narrow},
        Cell{.spec = small_llama(),
        .sequence_ranks = 4,
        .zero_stage = 3,
        .micro_batches = 3,
        .masking = packed,
        .dtype = narrow},
        Cell{.spec = small_gpt2(), .data = 2, .sequence_ranks = 2, .zero_stage = 1, .masking = uneven, .dtype = wide},
        Cell{.spec = small_qwen3(),
        .zero_stage = 3,
        .micro_batches = 2,
        .masking = packed,
        .dtype = narrow,
        .ring = 3,
        .order = TokenOrder::zigzag},
        Cell{.spec = small_llama(), .zero_stage = 2, .masking = packed, .dtype = narrow, .gather = 3},
        Cell{.spec = small_qwen3(),
        .sequence_ranks = 2,
        .zero_stage = 3,
        .sequence = 17,
        .masking = uneven,
        .dtype = exact,
        .ring = 2},
        Cell{.spec = unlike,
        .sequence_ranks = 2,
        .zero_stage = 3,
        .micro_batches = 2,
        .masking = packed,
        .dtype = narrow,
        .gather = 2,
        .gathered = KeepGathered::step},
        Cell{.spec = unlike, .sequence_ranks = 4, .zero_stage = 1, .dtype = wide, .threads = 2}})
    check_same_bits(cell);
}

#ifndef LONGHAUL_THREAD_SANITIZER  // minutes: sequences of thousands of tokens; the next cases tile short ones
TEST_CASE("tiles of an MLP change no bit of a step", "[threads]") {
  TransformerSpec spec = small_llama();
  spec.layers[0].layer.attention.window = 33;  // long sequences, little attention
  spec.max_positions = 32768;
  using enum Masking;
  for (const Cell& cell :
       {Cell{.spec = spec, .zero_stage = 0, .rows = 1, .sequence = 2 * row_block + 100, .dtype = DType::bfloat16},
        Cell{
            .spec = spec, .zero_stage = 1, .rows = 1, .sequence = 3 * row_block, .dtype = DType::float64, .threads = 2},
        Cell{.spec = spec,
        .sequence_ranks = 2,
        .zero_stage = 3,
        .micro_batches = 2,
        .rows = 1,
        .sequence = 4 * row_block + 2000,
        .masking = packed,
        .dtype = DType::bfloat16},
        Cell{.spec = spec,
        .data = 2,
        .zero_stage = 2,
        .micro_batches = 3,
        .rows = 2,
        .sequence = 2 * row_block + 1,
        .masking = uneven,
        .dtype = DType::float32}}) {
    Cell tiled = cell;
    tiled.activations = ActivationMode::recompute;
    CHECK(has_tiles(tiled));
    check_same_bits(cell);
  }
}
#endif

TEST_CASE("attention in chunks of heads changes no bit of a step", "[threads]") {
  // Four query heads of a KV head a rank, of which each is a chunk; two KV heads a rank, each a chunk of two; heads
  // that share nothing. Sequences of several blocks, so that the fast kernels are used.
  TransformerSpec shared = small_llama(), pairs = small_llama(), alone = small_llama(), normed = small_llama();
  shared.layers = {{2, small_layer(8, 2, 32, 24)}};
  pairs.layers = {{2, small_layer(8, 4, 16, 24)}};
  alone.layers = {{2, small_layer(6, 6, 16, 24)}};
  LayerSpec layer = small_layer(8, 2, 64, 16);
  layer.attention.qk_norm = true;
  layer.attention.soft_cap = 0.7;
  layer.attention.window = 70;
  normed.layers = {{1, small_layer(8, 2, 64, 16)}, {1, layer}};
  using enum Masking;
  struct Case {
    Cell cell;
    // Of a program: calls of attention, of its gradient, and of that which goes on from another chunk's sums.
    int forward, gradients, sums;
  };
  const DType narrow = DType::bfloat16, wide = DType::float32, exact = DType::float64;
  for (TransformerSpec* spec : {&shared, &pairs, &alone, &normed}) spec->max_positions = 512;
  for (const auto& [cell, forward, gradients, sums] :
       {Case{
            {.spec = shared, .sequence_ranks = 2, .zero_stage = 3, .sequence = 200, .masking = packed, .dtype = narrow},
            4,
            2,
            6},
        Case{{.spec = pairs,
        .data = 2,
        .sequence_ranks = 2,
        .zero_stage = 1,
        .micro_batches = 2,
        .sequence = 150,
        .masking = uneven,
        .dtype = wide},
             8,
             4,
             4},
        Case{{.spec = alone, .sequence_ranks = 2, .zero_stage = 2, .sequence = 130, .dtype = narrow, .threads = 2},
             6,
             6,
             0},
        Case{{.spec = shared, .sequence_ranks = 2, .zero_stage = 0, .sequence = 64, .dtype = exact}, 4, 2, 6},
        Case{{.spec = normed,
        .sequence_ranks = 2,
        .zero_stage = 3,
        .micro_batches = 2,
        .sequence = 180,
        .masking = packed,
        .dtype = narrow},
             4,
             2,
             6}}) {
    Cell chunked = cell;
    chunked.activations = ActivationMode::recompute;
    INFO(cell.text());
    CHECK(most_of_a_program(chunked, "attention_gradient_add") == sums);
    CHECK(most_of_a_program(chunked, "attention_gradient") == gradients);
    CHECK(most_of_a_program(chunked, "attention") == forward);
    check_same_bits(cell);
    // What waits in host memory stays what it is.
    chunked.offload_values = 5;
    std::string problem;
    const Outcome moved = run_ranks(chunked, problem);
    chunked.offload_values = 0;
    CHECK(run_ranks(chunked, problem).gradients == moved.gradients);
    CHECK(problem == "");
  }
  // Where attention is made again too, within a budget that asks for chunks.
  const Cell cell{.spec = shared, .sequence_ranks = 2, .zero_stage = 3, .rows = 1, .sequence = 64};
  CompileRequest request = request_for(cell);
  request.options.schedule.tile_mlp = true;
  request.options.schedule.tile_rows = 2;
  request.options.schedule.recompute_steps = {99, 99};
  const CompiledModel model = compile_model(request);
  CHECK(most_of_a_program(model, "attention") > 4);  // two chunks of each of two layers, and again
  CHECK(most_of_a_program(model, "attention_gradient_add") == 6);
  std::string problem;
  Outcome outcome;
  run_threads(2, [&](Communicator& world) {
    std::string own;
    const Outcome one = run_rank(world, cell, request, model, own);
    if (world.rank() == 0) {
      outcome = one;
      problem = own;
    }
    return 0;
  });
  CHECK(problem == "");
  CHECK(difference(outcome, run_reference(cell), 1e-10) == "");
  // Rings work on blocks of other ops, which have no chunks.
  Cell ring{.spec = shared, .sequence_ranks = 2, .sequence = 64, .ring = 2};
  ring.activations = ActivationMode::recompute;
  CHECK(most_of_a_program(ring, "take_heads") == 0);
}

TEST_CASE("tiles of any number of rows are the specification's step", "[threads]") {
  TransformerSpec unlike = small_llama();
  LayerSpec both = small_layer(8, 2, 8, 16), parallel = small_layer(4, 1, 8, 24);
  both.norm_placement = NormPlacement::both;
  both.residual_multiplier = 0.5;
  parallel.branches = Branches::parallel_shared_norm;
  unlike.layers = {{1, both}, {1, parallel}};
  using enum Masking;
  for (Cell cell : {Cell{.spec = small_llama(), .zero_stage = 0, .rows = 1},
                    Cell{.spec = small_llama(),
                    .data = 2,
                    .sequence_ranks = 2,
                    .zero_stage = 3,
                    .micro_batches = 3,
                    .rows = 2,
                    .sequence = 21,
                    .masking = packed},
                    Cell{.spec = small_qwen3(),
                    .sequence_ranks = 2,
                    .zero_stage = 1,
                    .micro_batches = 2,
                    .rows = 1,
                    .sequence = 48,
                    .masking = uneven,
                    .ring = 2,
                    .order = TokenOrder::zigzag},
                    Cell{.spec = unlike, .zero_stage = 2, .rows = 1, .sequence = 24, .gather = 2},
                    Cell{.spec = small_gpt2(), .zero_stage = 0, .rows = 1}}) {
    cell.activations = ActivationMode::recompute;
    cell.tile_rows = 3;
    std::string problem;
    INFO(cell.text());
    CHECK(has_tiles(cell));
    const Outcome tiled = run_ranks(cell, problem);
    CHECK(problem == "");
    CHECK(difference(tiled, run_reference(cell), 1e-10) == "");
  }
}

TEST_CASE("a budget is kept to the byte, and refused with the least that would do") {
  const SmallExperiment small(small_llama());
  const std::vector<std::string> base = {"parallelism.data=1", "parallelism.sequence=4", "parallelism.zero_stage=3",
                                         "training.seq_len=4096"};
  const auto prepared = [&](std::vector<std::string> more) {
    more.insert(more.end(), base.begin(), base.end());
    return prepare_run(small.load(more), 4, Hosts::one(4));
  };
  const auto budget = [](std::int64_t bytes) { return fmt::format("activation_memory.budget={}", bytes); };
  const auto activations = [](const RunSetup& setup) {
    const CompiledModel model = compile_model(setup.request);
    return model.arena_bytes - model.named.bytes;
  };
  const std::int64_t most = activations(prepared({"activation_memory.mode=keep"}));
  // What fits is kept; a byte less, and something is made again.
  const RunSetup all = prepared({budget(most)});
  CHECK(all.request.options.schedule.recompute_steps == std::vector<int>{0, 0});
  const RunSetup fewer = prepared({budget(most - 1)});
  CHECK(activations(fewer) < most);
  CHECK(fewer.request.options.schedule.recompute_steps != std::vector<int>{0, 0});
  CHECK(std::any_of(fewer.decisions.begin(), fewer.decisions.end(), [&](const std::string& text) {
    return text.starts_with("activation_memory: ") && text.find(std::to_string(most)) != std::string::npos;
  }));
  // The refusal says what would do, where the peak is and what holds it.
  std::int64_t least = 0;
  try {
    prepared({budget(1000)});
    FAIL("not refused");
  } catch (const Error& error) {
    const std::string said = error.what();
    INFO(said);
    CHECK(said.find("activation_memory.budget leaves a rank 1000 bytes") != std::string::npos);
    CHECK(said.find("at the peak, accumulate_") != std::string::npos);
    CHECK(said.find("at instruction ") != std::string::npos);
    CHECK(said.find("communication") != std::string::npos);
    const std::string before = "set activation_memory.budget to ";
    REQUIRE(said.find(before) != std::string::npos);
    least = std::stoll(said.substr(said.find(before) + before.size()));
  }
  CHECK(least < most);
  CHECK(activations(prepared({budget(least)})) == least);
  CHECK_THROWS_WITH(prepared({budget(least - 1)}), Catch::Contains("activation_memory.budget"));
  // device.memory is a budget too, and a share of what it leaves.
  const CompiledModel kept = compile_model(all.request);
  const auto memory = [&](std::int64_t bytes) {
    return fmt::format("device.memory={:.12f}", static_cast<double>(kept.named.bytes + bytes) / (1 << 30));
  };
  CHECK(activations(prepared({memory(most - 64)})) <= most - 64);
  CHECK(activations(prepared({memory(2 * least + 200), "activation_memory.budget=0.5"})) <= least + 100);
  CHECK_THROWS_WITH(prepared({memory(least / 2)}), Catch::Contains("device.memory leaves a rank"));
  // So are nine tenths of a GPU that is there.
  const auto on_gpu = [&](std::int64_t bytes, std::vector<std::string> more) {
    more.insert(more.end(), base.begin(), base.end());
    Hosts hosts = Hosts::one(4);
    hosts.device_memory = bytes;
    return prepare_run(small.load(more), 4, hosts);
  };
  const RunSetup gpu = on_gpu((kept.named.bytes + most - 64) / 9 * 10, {});
  CHECK(activations(gpu) <= most - 64);
  CHECK(std::ranges::any_of(gpu.decisions, [](const std::string& text) {
    return text.starts_with("device.memory auto: ") && text.find("nine tenths of a device's") != std::string::npos;
  }));
  CHECK(on_gpu(10, {memory(most + 64)}).request.options.schedule.recompute_steps == std::vector<int>{0, 0});
  CHECK_THROWS_WITH(on_gpu(kept.named.bytes + least / 2, {}), Catch::Contains("device.memory leaves a rank"));
  CHECK_THROWS_WITH(prepared({"activation_memory.budget=0.5"}), Catch::Contains("device.memory is auto"));
  CHECK_THROWS_WITH(prepared({"activation_memory.mode=keep", budget(most)}), Catch::Contains("only mode auto"));
}

TEST_CASE("long sequences fit the bytes that docs/long-context.md states") {
  const std::string folder = environment("LONGHAUL_SOURCE") + "/benchmarks/";
  const auto activations = [&](std::vector<std::string> keys, int ranks, std::int64_t tokens) {
    keys.push_back("training.dtype=bfloat16");
    keys.push_back(fmt::format("training.seq_len={}", tokens));
    const RunSetup setup = prepare_run(load_experiment(folder + "strategies.yaml", keys), ranks, Hosts::one(ranks));
    const CompiledModel model = compile_model(setup.request);
    return model.arena_bytes - model.named.bytes;
  };
  const auto a_token = [&](const std::string& plan) {
    constexpr std::int64_t few = 8 * row_block, many = 16 * row_block;
    const auto of = [&](std::int64_t tokens) {
      return activations({plan == "budget" ? fmt::format("activation_memory.budget={}", 12400 * tokens)
                                           : "activation_memory.mode=" + plan},
                         1, tokens);
    };
    return static_cast<double>(of(many) - of(few)) / (many - few);
  };
  CHECK(a_token("keep") > 60000);
  CHECK(a_token("recompute") < 13000);
  CHECK(a_token("budget") < 12000);
  const auto on_two = [&](double gib, std::int64_t tokens) {
    return activations({"model.config=" + folder + "long_model.json", "parallelism.sequence=2",
                        fmt::format("activation_memory.budget={:.0f}", gib * (1 << 30))},
                       2, tokens);
  };
  CHECK(static_cast<double>(on_two(0.45, 131072)) <= 0.45 * (1 << 30));
  CHECK(static_cast<double>(on_two(3.6, 1048576)) <= 3.6 * (1 << 30));
}

}  // namespace longhaul
