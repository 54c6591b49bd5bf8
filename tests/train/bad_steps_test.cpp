#include "train/bad_steps.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "comm/launch.h"
#include "ranks.h"
#include "small_models.h"

using namespace longhaul;
using namespace longhaul::testing;
using Catch::Matchers::Contains;

namespace {

BadSteps allowing(std::int64_t steps, double sigmas = 6) {
  Experiment experiment;
  experiment.training.max_bad_steps = steps;
  experiment.training.outlier_sigmas = sigmas;
  return BadSteps(experiment);
}

// A full window of losses around 2 and norms around 1, with deviations of 0.1.
void fill(BadSteps& steps) {
  for (std::size_t i = 0; i < BadSteps::window; ++i) steps.took(i % 2 ? 1.9 : 2.1, i % 2 ? 0.9 : 1.1);
}

}  // namespace

TEST_CASE("what is not finite is bad, an outlier only above a full window, and never below it") {
  BadSteps steps = allowing(3);
  CHECK(steps.active());
  CHECK_FALSE(allowing(0).active());
  for (const double value :
       {std::nan(""), std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()}) {
    CHECK_THAT(steps.judge_loss(value), Contains("the loss is"));
    CHECK_THAT(steps.judge_norm(value), Contains("the gradient norm is"));
  }
  CHECK(steps.judge_loss(1e9) == "");  // nothing to compare it with yet
  fill(steps);
  CHECK(steps.judge_loss(2.59) == "");
  CHECK_THAT(steps.judge_loss(2.61), Contains("6.1 standard deviations above 2"));
  CHECK(steps.judge_norm(1.59) == "");
  CHECK_THAT(steps.judge_norm(1.61), Contains("the gradient norm 1.61 is 6.1"));
  CHECK(steps.judge_loss(-100) == "");
  BadSteps finite_only = allowing(3, 0);
  fill(finite_only);
  CHECK(finite_only.judge_loss(1e9) == "");
  // All alike: anything above is an outlier, the same value is none.
  BadSteps flat = allowing(3);
  for (std::size_t i = 0; i < BadSteps::window; ++i) flat.took(2, 1);
  CHECK(flat.judge_loss(2) == "");
  CHECK(flat.judge_loss(2.1) != "");
}

TEST_CASE(
    "bad steps in a row end the run, a good one between them begins the count anew, and a resumed run goes on "
    "counting") {
  BadSteps steps = allowing(3);
  fill(steps);
  steps.skipped(201, "x", "step 200");
  steps.skipped(202, "x", "step 200");
  steps.took(2, 1);
  steps.skipped(204, "x", "step 200");
  steps.skipped(205, "x", "step 200");
  CHECK(steps.skipped_steps() == 4);
  BadSteps resumed = allowing(3);
  resumed.restore(steps.state());
  CHECK(resumed.skipped_steps() == 4);
  CHECK(resumed.judge_loss(2.61) == steps.judge_loss(2.61));
  for (BadSteps* one : {&steps, &resumed})
    CHECK_THROWS_WITH(one->skipped(206, "the loss is nan", "step 200"),
                      Contains("step 206: the loss is nan") && Contains("bad step 3 in a row") && Contains("step 200"));
  CHECK(allowing(0).state() == "");
  CHECK_THROWS_WITH(resumed.restore("{}"), Contains("garbled"));
  CHECK_THROWS_WITH(resumed.restore("nonsense"), Contains("garbled"));
}

TEST_CASE("the norm that decides before the update is the one that the update finds", "[threads]") {
  Cell cell;
  cell.spec = small_llama();
  cell.rows = 4;
  cell.data = 2;
  cell.sequence_ranks = 2;
  for (const int stage : {0, 1, 2, 3}) {
    cell.zero_stage = stage;
    const CompileRequest request = request_for(cell);
    const CompiledModel model = compile_model(request);
    run_threads(cell.world(), [&](Communicator& world) {
      CpuTarget cpu({.threads = cell.threads});
      Session session(world, cpu, request, model);
      session.set_parameters(random_parameters(cell.spec, 11));
      session.accumulate(cell.micro_batches, [&](std::int64_t i) {
        fill_slice(session, make_batch(cell.spec, cell.rows, cell.sequence, static_cast<int>(i), cell.masking),
                   cell.sequence);
      });
      const double before = session.gradient_norm();
      const double found = session.update(1, 1e-2);
      if (!(std::abs(before - found) <= 1e-12 * found))
        fail("stage {}: {} before, {} in the update", stage, before, found);
      return 0;
    });
  }
}
