#include "train/compare.h"

#include <cmath>
#include <limits>

#include "base/error.h"

namespace longhaul {

double norm(const std::vector<double>& values) {
  double sum = 0;
  for (double value : values) sum += value * value;
  return std::sqrt(sum);
}

std::map<std::string, double> tensor_errors(const Tensors& tensors, const Tensors& reference) {
  double total_squares = 0, total_count = 0;
  for (const auto& [name, values] : reference) {
    total_squares += norm(values) * norm(values);
    total_count += static_cast<double>(values.size());
  }
  std::map<std::string, double> errors;
  for (const auto& [name, b] : reference) {
    const auto found = tensors.find(name);
    LONGHAUL_CHECK(found != tensors.end() && found->second.size() == b.size(),
                   "no tensor {} to compare, or of another size", name);
    double squares = 0;
    for (std::size_t i = 0; i < b.size(); ++i) squares += (found->second[i] - b[i]) * (found->second[i] - b[i]);
    const double floor = 1e-3 * std::sqrt(total_squares * static_cast<double>(b.size()) / total_count);
    const double error = std::sqrt(squares) / std::max(norm(b), floor);
    errors[name] = std::isnan(error) ? (squares == 0 ? 0 : std::numeric_limits<double>::infinity()) : error;
  }
  return errors;
}

}  // namespace longhaul
