#include "plan/activations.h"

#include <algorithm>
#include <tuple>

namespace longhaul {

ActivationPlans::ActivationPlans(const std::vector<RecomputeMenu>& menus) : layers_(menus.size()) {
  for (std::size_t layer = 0; layer < menus.size(); ++layer) {
    price_ += menus[layer].price;
    for (const RecomputeStep& step : menus[layer].steps) order_.push_back({step.worth, layer, step.price});
  }
  // Steps of a layer stay in their order: their worth never falls.
  std::stable_sort(order_.begin(), order_.end(), [](const Step& a, const Step& b) {
    return std::tie(a.worth, a.layer) < std::tie(b.worth, b.layer);
  });
}

std::vector<int> ActivationPlans::steps(std::size_t plan) const {
  std::vector<int> counts(layers_, 0);
  for (std::size_t i = 0; i < taken(plan); ++i) ++counts[order_[i].layer];
  return counts;
}

double ActivationPlans::extra(std::size_t plan) const {
  double sum = 0;
  for (std::size_t i = 0; i < taken(plan); ++i) sum += order_[i].price;
  return price_ > 0 ? sum / price_ : 0;
}

std::optional<std::size_t> first_plan_within(std::int64_t limit, std::size_t plans,
                                             const std::function<std::int64_t(std::size_t plan)>& bytes_of) {
  if (bytes_of(0) <= limit) return 0;
  std::size_t no = 0, yes = plans - 1;
  if (yes == 0 || bytes_of(yes) > limit) return std::nullopt;
  while (yes - no > 1) {
    const std::size_t middle = no + (yes - no) / 2;
    (bytes_of(middle) <= limit ? yes : no) = middle;
  }
  return yes;
}

}  // namespace longhaul
