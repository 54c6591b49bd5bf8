#include "run/overlap_choice.h"

#include <algorithm>

#include "base/error.h"
#include "base/log.h"
#include "comm/delay/delay_communicator.h"
#include "compile/step_time.h"

namespace longhaul {
namespace {

// A step that becomes shorter by less is not worth another schedule.
constexpr double least_gain = 0.01;

CompileRequest quiet(CompileRequest request) {
  request.dump.clear();
  return request;
}

// Why nothing would be gained, without asking what a step takes; "" when that may be.
std::string nothing_to_gain(const RunSetup& setup) {
  if (setup.target->has_own_memory()) return "a device carries collectives out in the order of its program";
  if (setup.hosts.neighbours >= setup.request.mesh.world() && !link_delay())
    return "the ranks share a host, whose cores move what they exchange";
  if (!setup.costs) return "no device.profile says how long anything takes";
  return "";
}

}  // namespace

void resolve_overlap(RunSetup& setup) {
  CompileRequest& request = setup.request;
  std::int64_t& allowed = request.options.schedule.overlap_memory;
  const OverlapMode mode = setup.experiment.parallelism.overlap;
  allowed = 0;
  if (mode == OverlapMode::off || request.mesh.world() == 1) return;
  if (mode == OverlapMode::automatic) {
    if (const std::string reason = nothing_to_gain(setup); !reason.empty()) {
      log_debug("parallelism.overlap auto: off; {}", reason);
      return;
    }
  }
  CompileRequest beside = quiet(request);
  beside.options.schedule.overlap_memory = any_memory;
  // What taking turns costs is seen on the way: overlap is the last pass, and finds the programs so.
  std::vector<ProgramCost> turns;
  CompileHooks hooks;
  if (setup.costs)
    hooks.after_pass = [&](const Pass& pass, Graph& graph, const PassContext&) {
      if (&pass + 1 == &pipeline().back()) turns.push_back(program_cost(*setup.costs, graph));
      return false;
    };
  setup.compiled = std::make_shared<CompiledModel>(compile_model(beside, hooks));
  const CompiledModel& model = *setup.compiled;
  const auto programs = static_cast<std::int64_t>(model.overlap_memory.size());
  const std::int64_t all = std::count(model.overlap_memory.begin(), model.overlap_memory.end(), any_memory);
  const std::int64_t none = std::count(model.overlap_memory.begin(), model.overlap_memory.end(), 0);
  const std::string room = all == programs
                               ? ""
                               : fmt::format("; memory has room for all of it in {} of {} programs, for less in {}",
                                             all, programs, programs - all - none);
  std::string gain;
  if (setup.costs) {
    const std::int64_t steps = setup.parallel.accumulation_steps;
    const double before = step_cost(model.kinds, turns, steps).total();
    const ProgramCost cost = step_cost(*setup.costs, model, steps);
    const double after = cost.total();
    gain = fmt::format("; a step is predicted to take {:.4g} s instead of {:.4g} s, {:.4g} s at least", after, before,
                       cost.least);
    if (mode == OverlapMode::automatic && after > (1 - least_gain) * before) {
      setup.decisions.push_back(fmt::format("parallelism.overlap auto: off{}{}", gain, room));
      setup.compiled = nullptr;
      return;
    }
  }
  allowed = any_memory;
  setup.decisions.push_back(fmt::format("parallelism.overlap {}: collectives run beside computation{}{}",
                                        mode == OverlapMode::on ? "on" : "auto", gain, room));
}

}  // namespace longhaul
