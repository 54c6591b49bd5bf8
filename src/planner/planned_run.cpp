#include "planner/planned_run.h"

#include <algorithm>
#include <limits>
#include <tuple>

#include "base/error.h"
#include "plan/alternatives.h"
#include "planner/longest_sequence.h"
#include "run/activation_choice.h"
#include "run/run_flops.h"

namespace longhaul {
namespace {

std::string first_line(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

double percent(double part, double whole) {
  return 100 * (part / whole - 1);
}

}  // namespace

double PlannedRun::utilisation() const {
  if (!time) return 0;
  const double peak = setup.profile->products.at(setup.request.options.precision.dtype).peak;
  return flops / time->total() / (peak * setup.request.mesh.world());
}

PlannedRun plan_run(RunSetup setup) {
  PlannedRun run{std::move(setup), {}, {}};
  run.model = run.setup.compiled && run.setup.request.dump.empty() ? std::move(*run.setup.compiled)
                                                                   : compile_model(run.setup.request);
  run.setup.compiled = nullptr;
  if (run.setup.costs) run.time = step_cost(*run.setup.costs, run.model, run.setup.parallel.accumulation_steps);
  run.tokens = static_cast<double>(run.setup.parallel.global_batch_size * run.setup.sequence);
  run.flops = flops_of(run.setup).causal() * run.tokens;
  return run;
}

PlannedRun plan_run(const Experiment& experiment, const LoadedModel& model, int ranks, const Hosts& hosts) {
  return plan_run(prepare_run(experiment, model, ranks, hosts));
}

std::int64_t host_bytes(const PlannedRun& run) {
  std::int64_t bytes = run.model.host_bytes;
  if (!run.setup.experiment.checkpoint.asynchronous) return bytes;
  for (const auto& [name, slot] : run.model.named.slots)
    if (slot.state && (slot.state->role == Role::parameter || is_moment(slot.state->role))) bytes += slot.bytes;
  return bytes;
}

Outlook outlook(const PlannedRun& run, std::int64_t limit) {
  LONGHAUL_CHECK(run.setup.activations, "activations of this run are not chosen by memory");
  ActivationChoice& choice = *run.setup.activations;
  Outlook result;
  result.limit = limit;
  const auto plan = choice.within(limit);
  if (!plan) {
    result.activations =
        fmt::format("nothing fits: with all made again that can be it takes {} bytes", choice.bytes(choice.least()));
    return result;
  }
  result.bytes = choice.bytes(*plan);
  result.activations = choice.describe(*plan);
  if (!run.time) return result;
  CompileRequest request = run.setup.request;
  choice.apply(*plan, request);
  if (request.options.schedule.recompute_steps == run.setup.request.options.schedule.recompute_steps &&
      request.options.schedule.tile_mlp == run.setup.request.options.schedule.tile_mlp) {
    result.seconds = run.time->total();
    return result;
  }
  request.memory_limit = 0;
  result.seconds = step_cost(*run.setup.costs, compile_model(request), run.setup.parallel.accumulation_steps).total();
  return result;
}

std::vector<OtherRun> other_runs(const PlannedRun& run) {
  const RunSetup& setup = run.setup;
  const int world = setup.request.mesh.world();
  const double own = run.time ? run.time->total() / run.tokens : 0;
  std::vector<OtherRun> list;
  for (const Alternative& alternative : other_placements(setup.experiment, setup.parallel, world)) {
    OtherRun other{alternative.name, {}, {}, ""};
    try {
      RunSetup placed = place_run(alternative.experiment, setup.model, world, setup.hosts);
      const bool fits = apply_policy(placed, LayerPolicy::chosen);
      const std::int64_t limit = placed.activations ? activation_limit(placed).first : placed.request.memory_limit;
      placed.request.memory_limit = 0;
      const PlannedRun planned = plan_run(std::move(placed));
      other.bytes = planned.model.arena_bytes;
      if (!fits || (limit && *other.bytes > limit)) {
        other.verdict = fmt::format("does not fit: {} bytes more than there are, with all made again that can be",
                                    *other.bytes - limit);
      } else if (planned.time) {
        other.seconds_per_token = planned.time->total() / planned.tokens;
        const double more = percent(*other.seconds_per_token, own);
        other.verdict = more > 0.05 ? fmt::format("fits, predicted {:.1f} % slower", more)
                        : more < -0.05
                            ? fmt::format("fits, predicted {:.1f} % faster: set these keys to have it", -more)
                            : "fits, predicted as fast";
      } else {
        other.verdict = fmt::format("fits, {} bytes {}", std::abs(*other.bytes - run.model.arena_bytes),
                                    *other.bytes > run.model.arena_bytes ? "more" : "less");
      }
    } catch (const Error& error) {
      other.verdict = "refused: " + first_line(error.what());
    }
    list.push_back(std::move(other));
  }
  std::stable_sort(list.begin(), list.end(), [](const OtherRun& a, const OtherRun& b) {
    const auto rank = [](const OtherRun& one) {
      constexpr double never = std::numeric_limits<double>::infinity();
      return std::tuple(!one.verdict.starts_with("fits"), !one.bytes, one.seconds_per_token.value_or(never),
                        one.bytes.value_or(0));
    };
    return rank(a) < rank(b);
  });
  return list;
}

std::vector<ComparedPlan> compare_runs(const Experiment& experiment, const LoadedModel& model, int ranks,
                                       const Hosts& hosts) {
  std::vector<ComparedPlan> list;
  for (const ComparedRun& one : compared_runs(experiment, ranks)) {
    ComparedPlan plan{one.name, {}, false, {}, 0, ""};
    try {
      RunSetup placed = place_run(one.experiment, model, ranks, hosts);
      const std::int64_t limit = placed.request.memory_limit;
      const bool fits = apply_policy(placed, one.policy);
      placed.request.memory_limit = 0;
      const PlannedRun planned = plan_run(std::move(placed));
      plan.bytes = planned.model.arena_bytes;
      plan.fits = fits && (!limit || *plan.bytes <= limit);
      if (plan.fits && planned.time) plan.speed = planned.speed();
      if (limit) plan.longest = longest_sequence(one.experiment, model, ranks, hosts, one.policy).tokens;
    } catch (const Error& error) {
      plan.refusal = first_line(error.what());
    }
    list.push_back(std::move(plan));
  }
  return list;
}

}  // namespace longhaul
