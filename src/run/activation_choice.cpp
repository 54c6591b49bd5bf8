#include "run/activation_choice.h"

#include <limits>

#include "base/error.h"

namespace longhaul {
namespace {

CompileRequest unlimited(CompileRequest request) {
  request.memory_limit = 0;
  request.dump.clear();
  return request;
}

}  // namespace

ActivationChoice::ActivationChoice(const CompileRequest& request)
    : trials_(unlimited(request)),
      plans_(trials_.menus()),
      offload_values_(request.options.schedule.offload_values),
      host_limit_(request.host_limit ? request.host_limit : std::numeric_limits<std::int64_t>::max()) {}

const ActivationTrials::Memory& ActivationChoice::memory(std::size_t plan, std::int64_t offload_values) {
  const auto [found, added] = moved_.try_emplace({plan, offload_values});
  if (added)
    found->second = trials_.memory(plans_.steps(plan), ActivationPlans::tiles(plan), offload_values, host_limit_);
  return found->second;
}

std::int64_t ActivationChoice::bytes(std::size_t plan) {
  const auto [found, added] = known_.try_emplace(plan);
  if (added)
    found->second = offloads() ? memory(plan, offload_values_).arena_bytes
                               : trials_.arena_bytes(plans_.steps(plan), ActivationPlans::tiles(plan));
  return found->second;
}

std::optional<std::size_t> ActivationChoice::within(std::int64_t limit) {
  // Most plans are far from the limit: bounds tell on which side.
  return first_plan_within(limit, plans_.count(), [&](std::size_t plan) {
    if (const auto exact = known_.find(plan); exact != known_.end()) return exact->second;
    if (offloads()) return bytes(plan);  // what moves is known when candidates are: most of the way
    const auto [found, added] = bounds_.try_emplace(plan);
    MemoryBounds& bounds = found->second;
    if (added) bounds = trials_.arena_bounds(plans_.steps(plan), ActivationPlans::tiles(plan));
    if (bounds.most <= limit) return bounds.most;
    if (bounds.least > limit) return bounds.least;
    return bytes(plan);
  });
}

std::size_t ActivationChoice::least() {
  bytes(0);
  bytes(plans_.count() - 1);
  std::size_t least = known_.begin()->first;
  for (const auto& [plan, bytes] : known_)
    if (bytes < known_.at(least)) least = plan;
  return least;
}

void ActivationChoice::apply(std::size_t plan, CompileRequest& request) {
  request.options.schedule.recompute_steps = plans_.steps(plan);
  request.options.schedule.tile_mlp = ActivationPlans::tiles(plan);
  request.options.schedule.offload_values = offloads() ? memory(plan, offload_values_).offload_values : 0;
}

void ActivationChoice::apply_within(std::int64_t limit, std::size_t plan, CompileRequest& request) {
  apply(plan, request);
  if (!offloads()) return;
  std::int64_t& values = request.options.schedule.offload_values;
  const auto least = first_plan_within(limit, static_cast<std::size_t>(values) + 1, [&](std::size_t count) {
    return memory(plan, static_cast<std::int64_t>(count)).arena_bytes;
  });
  if (least) values = static_cast<std::int64_t>(*least);
}

std::string ActivationChoice::describe(std::size_t plan) const {
  const std::vector<int> steps = plans_.steps(plan);
  const std::vector<RecomputeMenu>& menus = trials_.menus();
  std::string text;
  for (std::size_t first = 0; first < steps.size();) {
    std::size_t last = first;
    const auto same = [&](std::size_t i) {
      return steps[i] == steps[first] && menus[i].steps.size() == menus[first].steps.size();
    };
    while (last + 1 < steps.size() && same(last + 1)) ++last;
    text += fmt::format("{}{} {} of {}", text.empty() ? "layers " : ", ",
                        first == last ? std::to_string(first) : fmt::format("{} to {}", first, last), steps[first],
                        menus[first].steps.size());
    first = last + 1;
  }
  return fmt::format(
      "{}; {:.1f} % more work in the layers{}", text, 100 * extra(plan),
      ActivationPlans::tiles(plan) ? "; MLPs in tiles, attention in chunks of heads where they can" : "");
}

}  // namespace longhaul
