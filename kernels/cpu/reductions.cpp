#include "kernels/cpu/reductions.h"

#include <cmath>

#include "kernels/cpu/support.h"

namespace longhaul::cpu {

void count_valid(const std::int32_t* labels, std::int64_t count, double* result) {
  std::int64_t valid = 0;
  for (std::int64_t i = 0; i < count; ++i) valid += labels[i] >= 0;
  *result = static_cast<double>(valid);
}

namespace {
constexpr std::int64_t elements_per_part = 65536;  // a multiple of the 4096-element blocks
std::int64_t parts_of(std::int64_t count) {
  return (count + elements_per_part - 1) / elements_per_part;
}
}  // namespace

std::size_t sum_of_squares_scratch_bytes(std::int64_t count) {
  return round_to_line(static_cast<std::size_t>(parts_of(count)) * sizeof(double));
}

void sum_of_squares(ThreadPool& pool, const SumOfSquares& p, const VectorTable& table) {
  double* partial = static_cast<double*>(p.scratch);
  parallel_for(pool, p.count, elements_per_part, [&](std::int64_t begin, std::int64_t end) {
    table.sum_of_squares[p.type](p, begin, end, partial + begin / elements_per_part);
  });
  double sum = 0;
  for (std::int64_t part = 0; part < parts_of(p.count); ++part) sum += partial[part];
  *p.result = sum;
}

void clip_coefficient(double sum, double max_norm, double* coefficient, double* norm) {
  *norm = std::sqrt(sum);
  if (max_norm <= 0) {
    *coefficient = 1;
    return;
  }
  const double ratio = max_norm / (*norm + 1e-6);
  *coefficient = ratio > 1 ? 1 : ratio;  // NaN passes
}

namespace reference {

void sum_of_squares(const SumOfSquares& p) {
  dispatch_floating(p.type, [&](auto t) {
    double sum = 0;
    for (std::int64_t i = 0; i < p.count; ++i) {
      const double value = convert<double>(static_cast<const decltype(t)*>(p.x)[i]);
      sum += value * value;
    }
    *p.result = sum;
  });
}

}  // namespace reference
}  // namespace longhaul::cpu
