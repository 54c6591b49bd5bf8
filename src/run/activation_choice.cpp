#include "run/activation_choice.h"

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
    : trials_(unlimited(request)), plans_(trials_.menus()) {}

std::int64_t ActivationChoice::bytes(std::size_t plan) {
  const auto [found, added] = known_.try_emplace(plan);
  if (added) found->second = trials_.arena_bytes(plans_.steps(plan), ActivationPlans::tiles(plan));
  return found->second;
}

std::optional<std::size_t> ActivationChoice::within(std::int64_t limit) {
  // Most plans are far from the limit: bounds tell on which side.
  return first_plan_within(limit, plans_.count(), [&](std::size_t plan) {
    if (const auto exact = known_.find(plan); exact != known_.end()) return exact->second;
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

void ActivationChoice::apply(std::size_t plan, CompileRequest& request) const {
  request.options.schedule.recompute_steps = plans_.steps(plan);
  request.options.schedule.tile_mlp = ActivationPlans::tiles(plan);
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
  return fmt::format("{}; {:.1f} % more work in the layers{}", text, 100 * extra(plan),
                     ActivationPlans::tiles(plan) ? "; MLPs in tiles where they can" : "");
}

}  // namespace longhaul
