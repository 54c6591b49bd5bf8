#include "planner/longest_sequence.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "ir/op_definition.h"
#include "plan/mesh.h"
#include "run/activation_choice.h"

namespace longhaul {
namespace {

// Every layer makes again what its menu has, without the dearest or with it; MLPs work on all their rows at once.
void apply_rule(CompileRequest& request, bool attention_too) {
  Schedule& schedule = request.options.schedule;
  schedule.activations = ActivationMode::automatic;  // menus with all there is
  std::vector<int> steps;
  for (const RecomputeMenu& menu : activation_menus(request)) {
    const auto dear = std::find_if(menu.steps.begin(), menu.steps.end(), [](const auto& one) { return one.dear; });
    steps.push_back(static_cast<int>((attention_too ? menu.steps.end() : dear) - menu.steps.begin()));
  }
  schedule.recompute_steps = steps;
  schedule.tile_mlp = false;
}

// One length, tried.
struct Probe {
  std::optional<std::int64_t> bytes;  // none: refused for another reason
  std::string refusal;
};

class Search {
 public:
  Search(const Experiment& experiment, const LoadedModel& model, int ranks, const Hosts& hosts, LayerPolicy policy)
      : experiment_(experiment), model_(model), ranks_(ranks), hosts_(hosts), policy_(policy) {}

  RunSetup placed(std::int64_t tokens) const {
    Experiment one = experiment_;
    one.training.seq_len = tokens;
    return place_run(one, model_, ranks_, hosts_);
  }

  Probe probe(std::int64_t tokens) {
    Probe found;
    try {
      RunSetup setup = placed(tokens);
      ++compilations;
      if (policy_ == LayerPolicy::chosen && setup.experiment.activation_memory.mode == ActivationMode::automatic) {
        setup.activations = std::make_shared<ActivationChoice>(setup.request);
        ActivationChoice& choice = *setup.activations;
        // As little as can be, or all of it where making again only adds.
        const std::int64_t limit = activation_limit(setup).first;
        found.bytes = choice.bytes(choice.plans() - 1);
        if (*found.bytes > limit) found.bytes = std::min(*found.bytes, choice.bytes(0));
        // The limit may be that of a budget: judged here by how much is beyond it.
        found.bytes = *found.bytes - limit + limit_of(setup);
      } else {
        apply_policy(setup, policy_);
        setup.request.memory_limit = 0;
        found.bytes = compile_model(setup.request).arena_bytes;
      }
    } catch (const Error& error) {
      found.refusal = error.what();
    }
    return found;
  }

  static std::int64_t limit_of(const RunSetup& setup) { return setup.request.memory_limit; }

  int compilations = 0;

 private:
  const Experiment& experiment_;
  const LoadedModel& model_;
  const int ranks_;
  const Hosts& hosts_;
  const LayerPolicy policy_;
};

}  // namespace

bool apply_policy(RunSetup& setup, LayerPolicy policy, bool least) {
  CompileRequest& request = setup.request;
  if (policy != LayerPolicy::chosen) request.options.schedule.offload_values = 0;
  switch (policy) {
    case LayerPolicy::keep:
      request.options.schedule.activations = ActivationMode::keep;
      return true;
    case LayerPolicy::all_but_attention:
      apply_rule(request, false);
      return true;
    case LayerPolicy::nothing:
      apply_rule(request, true);
      return true;
    case LayerPolicy::chosen:
      break;
  }
  const auto& memory = setup.experiment.activation_memory;
  if (memory.mode != ActivationMode::automatic || (!memory.budget && !request.memory_limit)) return true;
  setup.activations = std::make_shared<ActivationChoice>(request);
  ActivationChoice& choice = *setup.activations;
  const auto plan = least ? std::nullopt : choice.within(activation_limit(setup).first);
  if (!plan) choice.bytes(choice.plans() - 1);
  choice.apply(plan ? *plan : choice.least(), request);
  return least || plan;
}

std::string describe_peak(const CompiledModel& model) {
  const MemoryPeak peak = memory_peak(model);
  const Graph& graph = model.programs[peak.program]->graph;
  std::string text = graph.name;
  if (peak.op >= 0) {
    const Op& op = graph.ops[static_cast<std::size_t>(peak.op)];
    text += fmt::format(" at instruction {} ({}{})", peak.op, op.definition->name,
                        op.layer >= 0 ? fmt::format(" of layer {}", op.layer) : "");
  }
  const char* separator = ": ";
  for (int k = 0; k < memory_categories; ++k)
    if (const auto bytes = peak.bytes[static_cast<std::size_t>(k)]) {
      text += fmt::format("{}{} {}", separator, name_of(static_cast<MemoryCategory>(k)), bytes);
      separator = ", ";
    }
  if (peak.gaps) text += fmt::format("{}gaps {}", separator, peak.gaps);
  return text;
}

LongestSequence longest_sequence(const Experiment& experiment, const LoadedModel& model, int ranks, const Hosts& hosts,
                                 LayerPolicy policy) {
  Search search(experiment, model, ranks, hosts, policy);
  LongestSequence result;
  {
    const RunSetup setup = search.placed(experiment.training.seq_len);
    result.limit = setup.request.memory_limit;
    result.step = padded_sequence(setup.parallel, 1024);
  }
  if (!result.limit)
    fail(
        "the longest sequence depends on memory, and nothing says how much there is: give device.memory in GiB, or "
        "device.profile (or --cluster)");
  constexpr std::int64_t infinity = std::numeric_limits<std::int64_t>::max();
  const std::int64_t most = (std::int64_t{1} << 30) / result.step;  // places in a sequence are 32-bit numbers
  std::int64_t fits = 0, fits_bytes = 0, beyond = most + 1, beyond_bytes = infinity;
  std::string refusal = "a sequence is at most 2^30 tokens";
  const auto ask = [&](std::int64_t steps) {
    const Probe probe = search.probe(steps * result.step);
    if (probe.bytes && *probe.bytes <= result.limit) {
      fits = steps;
      fits_bytes = *probe.bytes;
    } else {
      beyond = steps;
      beyond_bytes = probe.bytes.value_or(infinity);
      refusal = probe.refusal;
    }
  };
  ask(std::clamp<std::int64_t>(experiment.training.seq_len / result.step, 1, most));
  while (beyond > most && fits < most) ask(std::min(2 * fits, most));
  // Bytes are nearly straight in tokens: by a line between the two ends, by halves where that leads nowhere.
  bool halve = false;
  while (beyond - fits > 1) {
    const std::int64_t width = beyond - fits;
    std::int64_t next = fits + width / 2;
    if (!halve && beyond_bytes != infinity && fits > 0)
      next = fits +
             static_cast<std::int64_t>(static_cast<double>(width) * (static_cast<double>(result.limit - fits_bytes) /
                                                                     static_cast<double>(beyond_bytes - fits_bytes)));
    ask(std::clamp(next, fits + 1, beyond - 1));
    halve = beyond - fits > width / 2;
  }
  result.tokens = fits * result.step;
  result.bytes = fits_bytes;
  result.compilations = search.compilations;
  result.stopped_by = refusal;
  if (beyond_bytes != infinity) {
    RunSetup setup = search.placed(beyond * result.step);
    apply_policy(setup, policy, true);
    setup.request.memory_limit = 0;
    const CompiledModel compiled = compile_model(setup.request);
    result.stopped_by = fmt::format("{} tokens would take {} bytes, {} more than there are; {}", beyond * result.step,
                                    compiled.arena_bytes, compiled.arena_bytes - result.limit, describe_peak(compiled));
  }
  return result;
}

}  // namespace longhaul
