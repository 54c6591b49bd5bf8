// activation_memory.budget: the order of plans, the bisection, and what it chooses for real models.
#include <catch2/catch.hpp>
#include <random>

#include "compile/activation_trials.h"
#include "cost/step_cost.h"
#include "plan/activations.h"
#include "tests/cost/simple_profile.h"
#include "tests/passes/small_models.h"

using namespace longhaul;

namespace {

RecomputeMenu menu(std::int32_t layer, std::vector<RecomputeStep> steps) {
  return {layer, 100, 0, std::move(steps)};
}

}  // namespace

TEST_CASE("plans take the cheapest step next, and that of early layers first") {
  const ActivationPlans plans({menu(0, {{1, 10, 1, 0.1}, {2, 10, 8, 0.8}}), menu(1, {{3, 10, 1, 0.1}}),
                               menu(2, {{4, 10, 1, 0.1}, {5, 10, 3, 0.3}})});
  REQUIRE(plans.count() == 7);
  using Steps = std::vector<int>;
  CHECK(plans.steps(0) == Steps{0, 0, 0});
  CHECK_FALSE(ActivationPlans::tiles(0));
  CHECK(plans.steps(1) == Steps{0, 0, 0});
  CHECK(ActivationPlans::tiles(1));
  CHECK(plans.steps(2) == Steps{1, 0, 0});
  CHECK(plans.steps(3) == Steps{1, 1, 0});
  CHECK(plans.steps(4) == Steps{1, 1, 1});
  CHECK(plans.steps(5) == Steps{1, 1, 2});
  CHECK(plans.steps(6) == Steps{2, 1, 2});
  CHECK(ActivationPlans::tiles(6));
  CHECK(plans.extra(0) == 0);
  CHECK(plans.extra(1) == 0);
  CHECK(plans.extra(6) == Approx(14.0 / 300));
  for (std::size_t i = 2; i < plans.count(); ++i) CHECK(plans.extra(i) > plans.extra(i - 1));
}

TEST_CASE("the first plan that fits is found, and a larger limit never gives a later one") {
  std::mt19937 random(3);
  for (int round = 0; round < 300; ++round) {
    // Falling, but for gaps as an allocator leaves them.
    std::vector<std::int64_t> bytes(1 + random() % 40);
    for (std::size_t i = 0; i < bytes.size(); ++i)
      bytes[i] = 1000 - 20 * static_cast<std::int64_t>(i) + static_cast<std::int64_t>(random() % 60);
    std::size_t before = bytes.size();
    for (std::int64_t limit = 100; limit < 1100; limit += 7) {
      int asked = 0;
      const auto plan = first_plan_within(limit, bytes.size(), [&](std::size_t i) {
        ++asked;
        return bytes.at(i);
      });
      CHECK(asked <= 8);
      if (!plan) {
        CHECK(bytes.back() > limit);
        CHECK(bytes.front() > limit);
        CHECK(before == bytes.size());
        continue;
      }
      CHECK(bytes[*plan] <= limit);
      if (*plan > 0) CHECK(bytes[*plan - 1] > limit);
      CHECK(*plan <= before);
      before = *plan;
    }
  }
}

TEST_CASE("for twenty budgets of real models bytes fit, and what is made again never grows with the budget") {
  for (const auto& spec : {test::llama_like(), test::gpt2_like(), test::qwen3_like(), test::llama_like(1)}) {
    CompileRequest request = test::request(spec, test::mesh(1, 2), 1, DType::bfloat16);
    request.sequence = 768;
    request.options.schedule.tile_rows = 32;
    request.kinds = {ProgramKind::count, ProgramKind::accumulate_only, ProgramKind::update};
    ActivationTrials trials(request);
    const ActivationPlans plans(trials.menus());
    REQUIRE(plans.count() > 8);
    // What the trials say is what a whole compilation gives.
    std::map<std::size_t, std::int64_t> known;
    const auto bytes_of = [&](std::size_t plan) {
      const auto [found, added] = known.try_emplace(plan);
      if (added) {
        found->second = trials.arena_bytes(plans.steps(plan), ActivationPlans::tiles(plan));
        request.options.schedule.recompute_steps = plans.steps(plan);
        request.options.schedule.tile_mlp = ActivationPlans::tiles(plan);
        CHECK(compile_model(request).arena_bytes == found->second);
        const MemoryBounds bounds = trials.arena_bounds(plans.steps(plan), ActivationPlans::tiles(plan));
        CHECK(bounds.least <= found->second);
        CHECK(bounds.most >= found->second);
      }
      return found->second;
    };
    const std::int64_t most = bytes_of(0), least = bytes_of(plans.count() - 1);
    CHECK(least < most);
    double extra = 1e9;
    std::int64_t before = 0;
    for (int i = 0; i < 20; ++i) {
      const std::int64_t limit = least + (most - least) * i / 19;
      const auto plan = first_plan_within(limit, plans.count(), bytes_of);
      REQUIRE(plan);
      CHECK(bytes_of(*plan) <= limit);
      CHECK(bytes_of(*plan) >= before);  // more memory is for more that is kept
      before = bytes_of(*plan);
      CHECK(plans.extra(*plan) <= extra);
      extra = plans.extra(*plan);
    }
    CHECK(extra == 0);
    CHECK_FALSE(first_plan_within(least - 1, plans.count(), bytes_of));
  }
}

TEST_CASE(
    "for twenty budgets of real models priced by a machine's profile, neither bytes nor predicted time grow against "
    "the budget") {
  MachineProfile profile = test::simple_profile();
  profile.launch = 1e-7;
  const CostModel costs(profile, {.ranks_per_host = 2});
  for (const auto& spec : {test::llama_like(), test::gpt2_like(), test::qwen3_like(), test::llama_like(1)}) {
    CompileRequest request = test::request(spec, test::mesh(1, 2), 1, DType::bfloat16);
    request.sequence = 768;
    request.options.schedule.tile_rows = 32;
    request.options.schedule.seconds = [&](const Graph& graph, const Op& op) { return costs.cost(graph, op).seconds; };
    request.kinds = {ProgramKind::count, ProgramKind::accumulate_only, ProgramKind::update};
    const ActivationTrials trials(request);
    const ActivationPlans plans(trials.menus());
    struct Known {
      std::int64_t bytes = 0;
      double seconds = 0;
    };
    std::map<std::size_t, Known> known;
    const auto ask = [&](std::size_t plan) {
      const auto [found, added] = known.try_emplace(plan);
      if (added) {
        request.options.schedule.recompute_steps = plans.steps(plan);
        request.options.schedule.tile_mlp = ActivationPlans::tiles(plan);
        const CompiledModel model = compile_model(request);
        found->second = {model.arena_bytes,
                         program_cost(costs, model.program(ProgramKind::accumulate_only).graph).total()};
      }
      return found->second;
    };
    const std::int64_t most = ask(0).bytes, least = ask(plans.count() - 1).bytes;
    Known before{0, 1e30};
    for (int i = 0; i < 20; ++i) {
      const std::int64_t limit = least + (most - least) * i / 19;
      const auto plan = first_plan_within(limit, plans.count(), [&](std::size_t one) { return ask(one).bytes; });
      REQUIRE(plan);
      CHECK(ask(*plan).bytes <= limit);
      CHECK(ask(*plan).bytes >= before.bytes);
      CHECK(ask(*plan).seconds <= before.seconds * (1 + 1e-12));
      before = ask(*plan);
    }
    CHECK(before.seconds < ask(plans.count() - 1).seconds);
  }
}
