#include "run/overlap_choice.h"

#include <algorithm>

#include "base/error.h"
#include "base/log.h"
#include "compile/step_time.h"
#include "run/activation_choice.h"

namespace longhaul {
namespace {

// A step that becomes shorter by less is not worth another schedule.
constexpr double least_gain = 0.01;

CompileRequest quiet(CompileRequest request) {
  request.dump.clear();
  return request;
}

// What is under way may take so much of a rank's memory besides named buffers; what was chosen by a budget stays within
// it.
std::int64_t most_memory(const RunSetup& setup) {
  if (!setup.activations) return any_memory;
  return std::max<std::int64_t>(0, activation_limit(setup).first - setup.activations->kept_between_programs());
}

}  // namespace

void resolve_overlap(RunSetup& setup) {
  CompileRequest& request = setup.request;
  std::int64_t& allowed = request.options.schedule.overlap_memory;
  const OverlapMode mode = setup.experiment.parallelism.overlap;
  allowed = 0;
  if (mode == OverlapMode::off || request.mesh.world() == 1) return;
  if (mode == OverlapMode::automatic && setup.target->has_own_memory()) {
    log_debug("parallelism.overlap auto: off on a device, where it was not measured");
    return;
  }
  const std::int64_t most = most_memory(setup);
  if (most == 0) {
    setup.decisions.push_back("parallelism.overlap: off; memory has no room for what would be under way");
    return;
  }
  if (mode == OverlapMode::automatic && !setup.costs && most == any_memory && !request.memory_limit) {
    allowed = any_memory;
    setup.decisions.push_back("parallelism.overlap auto: collectives run beside computation");
    return;
  }
  CompileRequest beside = quiet(request);
  beside.options.schedule.overlap_memory = most;
  std::vector<ProgramCost> turns;
  if (setup.costs)
    beside.before_overlap = [&](const Graph& graph) { turns.push_back(program_cost(*setup.costs, graph)); };
  setup.compiled = std::make_shared<CompiledModel>(compile_model(beside));
  const CompiledModel& model = *setup.compiled;
  const auto programs = static_cast<std::int64_t>(model.overlap_memory.size());
  const std::int64_t all = std::count(model.overlap_memory.begin(), model.overlap_memory.end(), most);
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
  allowed = most;
  setup.decisions.push_back(fmt::format("parallelism.overlap {}: collectives run beside computation{}{}",
                                        mode == OverlapMode::on ? "on" : "auto", gain, room));
}

}  // namespace longhaul
