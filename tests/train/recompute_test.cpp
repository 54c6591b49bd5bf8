// activation_memory: losses, norms, gradients and parameters of two steps are the same bits whatever is made again, the
// arena is as planned, and a budget is kept to the byte or refused with the least that would do.
#include <catch2/catch.hpp>

#include "base/environment.h"
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
    CHECK(again.first.loss == kept.first.loss);
    CHECK(again.second.loss == kept.second.loss);
    CHECK(again.first.grad_norm == kept.first.grad_norm);
    CHECK(again.second.grad_norm == kept.second.grad_norm);
    CHECK(again.gradients == kept.gradients);
    CHECK(again.parameters == kept.parameters);
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

bool has_tiles(const Cell& cell) {
  const CompiledModel model = compile_model(request_for(cell));
  for (const Program* program : model.all())
    for (const Op& op : program->graph.ops)
      if (op.is("put_rows")) return true;
  return false;
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
#ifdef __SANITIZE_THREAD__  // minutes: of these only what several threads, or ranks of one process, compute together
    if (cell.threads == 1 && cell.data == 1) continue;
#endif
    Cell tiled = cell;
    tiled.activations = ActivationMode::recompute;
    CHECK(has_tiles(tiled));
    check_same_bits(cell);
  }
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
