#include <nlohmann/json.hpp>

#include "ir/op_definition.h"
#include "planner/plan_report.h"
#include "run/activation_choice.h"

namespace longhaul {
namespace {

using nlohmann::ordered_json;

template <typename T>
ordered_json or_null(const std::optional<T>& value) {
  return value ? ordered_json(*value) : ordered_json(nullptr);
}

ordered_json memory_json(const PlannedRun& run) {
  const MemoryPeak peak = memory_peak(run.model);
  const Graph& graph = run.model.programs[peak.program]->graph;
  ordered_json categories = ordered_json::object();
  for (int k = 0; k < memory_categories; ++k)
    categories[std::string(name_of(static_cast<MemoryCategory>(k)))] = peak.bytes[static_cast<std::size_t>(k)];
  ordered_json place = {{"program", graph.name}, {"instruction", peak.op}};
  if (peak.op >= 0) {
    const Op& op = graph.ops[static_cast<std::size_t>(peak.op)];
    place["op"] = op.definition->name;
    place["layer"] = op.layer;
  }
  const std::int64_t limit = run.setup.request.memory_limit;
  return {{"bytes", run.model.arena_bytes},
          {"limit", limit ? ordered_json(limit) : ordered_json(nullptr)},
          {"kept_between_programs", run.model.named.bytes},
          {"peak", std::move(place)},
          {"categories", std::move(categories)},
          {"gaps", peak.gaps}};
}

ordered_json activations_json(const PlannedRun& run) {
  if (!run.setup.activations) return nullptr;
  ActivationChoice& choice = *run.setup.activations;
  const auto plan = choice.within(activation_limit(run.setup).first);
  if (!plan) return nullptr;
  return {{"plan", *plan},
          {"plans", choice.plans()},
          {"more_work", choice.extra(*plan)},
          {"description", choice.describe(*plan)}};
}

ordered_json time_json(const PlannedRun& run) {
  if (!run.time) return nullptr;
  ordered_json work = ordered_json::object(), ops = ordered_json::object();
  for (int i = 0; i < works; ++i)
    work[std::string(name_of(static_cast<Work>(i)))] = run.time->seconds[static_cast<std::size_t>(i)];
  for (const auto& [op, seconds] : run.time->ops) ops[op] = seconds;
  return {{"profile", run.setup.profile->name}, {"seconds", run.time->total()},
          {"tokens_per_second", run.speed()},   {"share_of_peak", run.utilisation()},
          {"seconds_by_work", std::move(work)}, {"seconds_by_op", std::move(ops)}};
}

}  // namespace

std::string plan_json(const PlanReport& report) {
  const PlannedRun& run = report.run;
  ordered_json top = {{"experiment", report.experiment},
                      {"ranks", run.setup.request.mesh.world()},
                      {"ranks_per_host", run.setup.hosts.neighbours},
                      {"tokens_of_a_sequence", run.setup.sequence},
                      {"tokens_of_a_step", static_cast<std::int64_t>(run.tokens)},
                      {"mesh", run.setup.request.mesh.text()},
                      {"decisions", run.setup.decisions},
                      {"memory", memory_json(run)},
                      {"host_memory", {{"bytes", host_bytes(run)}}},
                      {"activations", activations_json(run)},
                      {"predicted", time_json(run)}};
  for (const Outlook& one : report.outlooks)
    top["other_limits"].push_back({{"limit", one.limit},
                                   {"bytes", or_null(one.bytes)},
                                   {"predicted_seconds", or_null(one.seconds)},
                                   {"activations", one.activations}});
  for (const OtherRun& one : report.others)
    top["others"].push_back({{"keys", one.name},
                             {"bytes", or_null(one.bytes)},
                             {"predicted_seconds_per_token", or_null(one.seconds_per_token)},
                             {"verdict", one.verdict}});
  if (const auto& longest = report.longest)
    top["longest_sequence"] = {{"tokens", longest->tokens},         {"step", longest->step},
                               {"bytes", longest->bytes},           {"limit", longest->limit},
                               {"stopped_by", longest->stopped_by}, {"compilations", longest->compilations}};
  for (const ComparedPlan& one : report.compared)
    top["compared"].push_back({{"name", one.name},
                               {"bytes", or_null(one.bytes)},
                               {"fits", one.fits},
                               {"predicted_tokens_per_second", or_null(one.speed)},
                               {"longest_sequence", one.longest},
                               {"refusal", one.refusal}});
  return top.dump(2) + "\n";
}

}  // namespace longhaul
