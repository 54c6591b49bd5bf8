#include "verify/compare.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "ir/state.h"

namespace longhaul {

double norm(const std::vector<double>& values) {
  double sum = 0;
  for (double value : values) sum += value * value;
  return std::sqrt(sum);
}

namespace {

double root_mean_square(const Tensors& tensors) {
  double squares = 0, count = 0;
  for (const auto& [name, values] : tensors) {
    squares += norm(values) * norm(values);
    count += static_cast<double>(values.size());
  }
  return std::sqrt(squares / std::max(count, 1.0));
}

}  // namespace

std::map<std::string, double> tensor_errors(const Tensors& tensors, const Tensors& reference) {
  const double typical = root_mean_square(reference);
  std::map<std::string, double> errors;
  for (const auto& [name, b] : reference) {
    const auto found = tensors.find(name);
    LONGHAUL_CHECK(found != tensors.end() && found->second.size() == b.size(),
                   "no tensor {} to compare, or of another size", name);
    double squares = 0;
    for (std::size_t i = 0; i < b.size(); ++i) squares += (found->second[i] - b[i]) * (found->second[i] - b[i]);
    const double floor = tolerance::floor_of_norm * typical * std::sqrt(static_cast<double>(b.size()));
    const double error = std::sqrt(squares) / std::max(norm(b), floor);
    errors[name] = std::isnan(error) ? (squares == 0 ? 0 : std::numeric_limits<double>::infinity()) : error;
  }
  return errors;
}

std::map<std::string, double> parameter_errors(const Tensors& parameters, const Tensors& reference,
                                               const Tensors& gradients) {
  const double zero = tolerance::small_gradient * root_mean_square(gradients);
  // Without the elements that count absolutely, the others' errors are as of any tensor.
  Tensors rest = parameters;
  std::map<std::string, double> absolute;
  for (const auto& [name, b] : reference) {
    const auto gradient = gradients.find(name_of(StateKey{Role::gradient, name}));
    const auto found = rest.find(name);
    if (gradient == gradients.end() || found == rest.end()) continue;
    LONGHAUL_CHECK(gradient->second.size() == b.size() && found->second.size() == b.size(), "sizes of {}", name);
    double& most = absolute[name];
    for (std::size_t i = 0; i < b.size(); ++i) {
      if (std::abs(gradient->second[i]) > zero) continue;
      const double off = std::abs(found->second[i] - b[i]);
      most = std::isnan(off) ? std::numeric_limits<double>::infinity() : std::max(most, off);
      found->second[i] = b[i];
    }
  }
  auto errors = tensor_errors(rest, reference);
  for (const auto& [name, most] : absolute) errors[name] = std::max(errors[name], most);
  return errors;
}

LowPrecisionLimits::LowPrecisionLimits(const Tensors& one_rank, const Tensors& reference, double roundoff) {
  double off = 0, squares = 0;
  for (const auto& [name, b] : reference) {
    const auto& a = one_rank.at(name);
    for (std::size_t i = 0; i < b.size(); ++i) off += (a[i] - b[i]) * (a[i] - b[i]);
    squares += norm(b) * norm(b);
  }
  whole_ = std::sqrt(off / std::max(squares, 1e-300));
  if (std::isnan(whole_)) whole_ = std::numeric_limits<double>::infinity();
  const double zero = tolerance::zero_gradient * root_mean_square(reference);
  for (const auto& [name, error] : tensor_errors(one_rank, reference)) {
    const auto& b = reference.at(name);
    double& limit = tensors_[name] = tolerance::ratio_to_one_rank * std::max({error, whole_, roundoff});
    if (norm(b) <= zero * std::sqrt(static_cast<double>(b.size())))
      limit = std::max(limit, tolerance::one_rank_roundoffs * roundoff / tolerance::floor_of_norm);
  }
}

double LowPrecisionLimits::of_number(double error_of_one, double roundoff) const {
  return tolerance::ratio_to_one_rank * std::max(error_of_one, tolerance::number_roundoffs * roundoff);
}

double relative_error(double value, double reference) {
  const double error = std::abs(value - reference) / std::max(std::abs(reference), 1e-300);
  return std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
}

}  // namespace longhaul
