#include "train/bad_steps.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace longhaul {

std::string BadSteps::judge(const char* what, double value, const std::vector<double>& seen) const {
  if (!std::isfinite(value)) return fmt::format("the {} is {}", what, value);
  if (sigmas_ <= 0 || seen.size() < window) return "";
  double mean = 0, square = 0;
  for (const double one : seen) mean += one;
  mean /= static_cast<double>(seen.size());
  for (const double one : seen) square += (one - mean) * (one - mean);
  const double deviation = std::sqrt(square / static_cast<double>(seen.size()));
  if (!(value - mean > sigmas_ * deviation)) return "";
  return fmt::format("the {} {:.5g} is {:.1f} standard deviations above {:.5g}, the mean of {} steps", what, value,
                     (value - mean) / deviation, mean, seen.size());
}

void BadSteps::took(double loss, double norm) {
  in_row_ = 0;
  if (!active()) return;
  if (losses_.size() < window) {
    losses_.push_back(loss);
    norms_.push_back(norm);
    return;
  }
  losses_[next_] = loss;
  norms_[next_] = norm;
  next_ = (next_ + 1) % window;
}

void BadSteps::skipped(std::int64_t step, const std::string& reason, const std::string& last_checkpoint) {
  ++total_;
  if (++in_row_ >= allowed_)
    fail(
        "step {}: {}; that is bad step {} in a row, and training.max_bad_steps is {}: the run stops (last checkpoint: "
        "{})",
        step, reason, in_row_, allowed_, last_checkpoint);
}

std::string BadSteps::state() const {
  if (!active()) return "";
  return nlohmann::json(
             {{"in_row", in_row_}, {"total", total_}, {"next", next_}, {"losses", losses_}, {"norms", norms_}})
      .dump();
}

void BadSteps::restore(const std::string& state) {
  if (state.empty()) return;
  const auto json = nlohmann::json::parse(state, nullptr, false);
  try {
    in_row_ = json.at("in_row");
    total_ = json.at("total");
    next_ = json.at("next");
    losses_ = json.at("losses").get<std::vector<double>>();
    norms_ = json.at("norms").get<std::vector<double>>();
    if (losses_.size() != norms_.size() || losses_.size() > window || next_ >= window) fail("sizes");
  } catch (const std::exception&) {
    fail("the checkpoint's account of bad steps is garbled: {}", state.substr(0, 200));
  }
}

}  // namespace longhaul
