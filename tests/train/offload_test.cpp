// activation_memory.offload: two steps are the same bits wherever values wait for their backward pass, both arenas are
// as planned to the byte (run_ranks), budgets of device and host memory are kept or refused.
#include <catch2/catch.hpp>

#include "ranks.h"
#include "run/setup.h"
#include "small_experiment.h"

namespace longhaul {
namespace {

using namespace testing;

constexpr std::int64_t all = 1000;

std::int64_t copies(const CompiledModel& model) {
  std::int64_t count = 0;
  for (const Program* program : model.all())
    for (const Op& op : program->graph.ops) count += op.is("reload.wait");
  return count;
}

void check_same_bits(Cell cell) {
  std::string problem;
  INFO(cell.text());
  cell.offload_values = 0;
  cell.activations = ActivationMode::keep;
  const Outcome kept = run_ranks(cell, problem);
  CHECK(problem == "");
  REQUIRE(kept.first.loss > 0);
  for (const ActivationMode mode : {ActivationMode::keep, ActivationMode::automatic, ActivationMode::recompute})
    for (const std::int64_t values : {std::int64_t{5}, all}) {
      INFO("mode " << static_cast<int>(mode) << ", " << values << " values");
      cell.activations = mode;
      cell.offload_values = values;
      const CompiledModel model = compile_model(request_for(cell));
      CHECK(copies(model) > 0);
      CHECK(model.host_bytes > 0);
      const Outcome moved = run_ranks(cell, problem);
      CHECK(problem == "");
      check_same_bits(moved, kept);
    }
}

}  // namespace

TEST_CASE("what waits in host memory changes no bit of a step", "[threads]") {
  TransformerSpec deep = small_llama(), unlike = small_llama();
  deep.layers[0].repeat = 4;
  LayerSpec both = small_layer(8, 2, 8, 16), parallel = small_layer(4, 1, 8, 24);
  both.norm_placement = NormPlacement::both;
  both.attention.window = 5;
  parallel.branches = Branches::parallel_shared_norm;
  unlike.layers = {{2, both}, {2, parallel}};
  using enum Masking;
  const DType narrow = DType::bfloat16, wide = DType::float32, exact = DType::float64;
  for (const Cell& cell :
       {Cell{.spec = deep, .zero_stage = 0, .dtype = narrow},
        Cell{
            .spec = deep, .sequence_ranks = 2, .zero_stage = 3, .micro_batches = 3, .masking = packed, .dtype = narrow},
        Cell{.spec = small_gpt2(), .data = 2, .zero_stage = 1, .masking = uneven, .dtype = wide},
        Cell{.spec = small_qwen3(),
        .zero_stage = 3,
        .micro_batches = 2,
        .masking = packed,
        .dtype = narrow,
        .ring = 3,
        .order = TokenOrder::zigzag},
        Cell{.spec = deep, .data = 2, .zero_stage = 2, .masking = packed, .dtype = narrow, .gather = 2},
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

TEST_CASE("device memory shrinks by what moves", "[threads]") {
  Cell cell{.spec = small_llama(), .rows = 1, .sequence = 512, .dtype = DType::bfloat16};
  cell.spec.layers[0].repeat = 12;
  cell.spec.max_positions = 512;
  cell.activations = ActivationMode::recompute;
  const CompiledModel kept = compile_model(request_for(cell));
  cell.offload_values = all;
  const CompiledModel moved = compile_model(request_for(cell));
  CHECK(kept.host_bytes == 0);
  // Block inputs, attention's outputs and statistics of nearly all layers.
  const std::int64_t layer = 512 * (2 * 16 + 2 * 32 + 4 * 4);
  CHECK(moved.host_bytes > 9 * layer);
  CHECK(moved.host_bytes <= 12 * layer);
  CHECK(kept.arena_bytes - moved.arena_bytes > moved.host_bytes * 7 / 10);
  const std::string table = memory_table(moved);
  INFO(table);
  CHECK(table.find(fmt::format("host memory of a rank: {} bytes", moved.host_bytes)) != std::string::npos);
  CHECK(memory_table(kept).find("host memory") == std::string::npos);
  CHECK(activation_table(moved).find("moved to host memory:") != std::string::npos);
}

TEST_CASE("activation_memory.offload and device.host_memory decide what moves and what is refused") {
  TransformerSpec spec = small_llama();
  spec.layers[0].repeat = 6;
  const SmallExperiment small(spec);
  const auto prepared = [&](std::vector<std::string> more) {
    for (const char* key : {"parallelism.data=1", "parallelism.sequence=2", "training.seq_len=1024"})
      more.emplace_back(key);
    return prepare_run(small.load(more), 2, Hosts::one(2));
  };
  const auto compiled = [](const RunSetup& setup) { return compile_model(setup.request); };
  const auto activations = [](const CompiledModel& model) { return model.arena_bytes - model.named.bytes; };
  const auto budget = [](std::int64_t bytes) { return fmt::format("activation_memory.budget={}", bytes); };
  const std::string on = "activation_memory.offload=on";

  // Unasked, nothing moves: device and host are one memory here.
  const CompiledModel kept = compiled(prepared({"activation_memory.mode=keep"}));
  CHECK(kept.host_bytes == 0);
  const CompiledModel unasked = compiled(prepared({budget(activations(kept) / 2)}));
  CHECK(unasked.host_bytes == 0);
  CHECK(copies(unasked) == 0);
  const CompiledModel moved = compiled(prepared({"activation_memory.mode=keep", on}));
  CHECK(moved.host_bytes > 0);
  CHECK(moved.arena_bytes < kept.arena_bytes);

  // Under a budget no more moves than has to, and nothing is made again that can move.
  const RunSetup half = prepared({budget((activations(kept) + activations(moved)) / 2), on});
  const CompiledModel some = compiled(half);
  CHECK(activations(some) <= (activations(kept) + activations(moved)) / 2);
  CHECK(some.host_bytes > 0);
  CHECK(some.host_bytes < moved.host_bytes);
  CHECK(half.request.options.schedule.recompute_steps == std::vector<int>(6, 0));
  CHECK(std::any_of(half.decisions.begin(), half.decisions.end(), [&](const std::string& text) {
    return text.find(fmt::format("{} values in host memory, {} bytes of it",
                                 half.request.options.schedule.offload_values, some.host_bytes)) != std::string::npos;
  }));
  CHECK(compiled(prepared({budget(activations(kept)), on})).host_bytes == 0);

  // Less host memory: less moves, more is made again.
  const auto host = [](std::int64_t bytes) {
    return fmt::format("device.host_memory={:.12f}", static_cast<double>(bytes) / (1 << 30));
  };
  const std::int64_t middle = (activations(kept) + activations(moved)) / 2;
  const RunSetup poor = prepared({budget(middle), on, host(some.host_bytes / 2)});
  const CompiledModel mixed = compiled(poor);
  CHECK(activations(mixed) <= middle);
  CHECK(mixed.host_bytes > 0);
  CHECK(mixed.host_bytes <= some.host_bytes / 2);
  CHECK(poor.request.options.schedule.recompute_steps != std::vector<int>(6, 0));

  CHECK_THROWS_WITH(compiled(prepared({"activation_memory.mode=keep", on, host(moved.host_bytes - 1)})),
                    Catch::Contains(") of host memory, ") && Catch::Contains("set device.host_memory") &&
                        Catch::Contains("host memory of a rank"));
  CHECK_THROWS_WITH(prepared({budget(1000), on}), Catch::Contains("all moved that") &&
                                                      Catch::Contains("activation_memory.budget leaves") &&
                                                      Catch::Contains("device.host_memory says"));
}

TEST_CASE("a larger budget never moves more, nor makes more again") {
  TransformerSpec spec = small_llama();
  spec.layers[0].repeat = 5;
  const SmallExperiment small(spec);
  const auto plan = [&](double bytes) {
    return prepare_run(small.load({"training.seq_len=2048", "activation_memory.offload=on",
                                   fmt::format("activation_memory.budget={:.0f}", bytes)}),
                       1, Hosts::one(1));
  };
  std::int64_t least = 0;
  try {
    plan(1000);
  } catch (const Error& error) {
    const std::string said = error.what(), before = "set activation_memory.budget to ";
    least = std::stoll(said.substr(said.find(before) + before.size()));
  }
  REQUIRE(least > 0);
  int again = 1 << 30;
  for (int i = 0; i <= 8; ++i) {
    const double bytes = static_cast<double>(least) * std::pow(1.4, i);
    const RunSetup setup = plan(bytes);
    const CompiledModel model = compile_model(setup.request);
    CHECK(static_cast<double>(model.arena_bytes - model.named.bytes) <= bytes);
    const auto& steps = setup.request.options.schedule.recompute_steps;
    const int now = std::accumulate(steps.begin(), steps.end(), 0);
    CHECK(now <= again);
    again = now;
  }
  CHECK(again == 0);
}

}  // namespace longhaul
