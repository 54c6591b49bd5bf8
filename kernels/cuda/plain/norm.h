// Norms in plain loops. x, dy, dx [rows, columns]; weight, bias [columns]; statistics [rows].
#pragma once
#include <cmath>
#include <cstdint>

namespace longhaul::cuda::plain {

/// layer: subtract the mean and add `bias`. `x` is what is normalised, the residual already added.
template <typename Scalar>
void norm_forward(std::int64_t rows, std::int64_t columns, bool layer, double epsilon, const Scalar* x,
                  const Scalar* weight, const Scalar* bias, Scalar* y, Scalar* inverse_deviation, Scalar* mean) {
  for (std::int64_t r = 0; r < rows; r++) {
    const Scalar* row = x + r * columns;
    Scalar centre = 0, squares = 0;
    if (layer) {
      for (std::int64_t c = 0; c < columns; c++) centre += row[c];
      mean[r] = centre /= static_cast<Scalar>(columns);
    }
    for (std::int64_t c = 0; c < columns; c++) squares += (row[c] - centre) * (row[c] - centre);
    inverse_deviation[r] = 1 / std::sqrt(squares / static_cast<Scalar>(columns) + static_cast<Scalar>(epsilon));
    for (std::int64_t c = 0; c < columns; c++)
      y[r * columns + c] = (row[c] - centre) * inverse_deviation[r] * weight[c] + (layer ? bias[c] : 0);
  }
}

/// dweight and dbias are added to.
template <typename Scalar>
void norm_backward(std::int64_t rows, std::int64_t columns, bool layer, const Scalar* x, const Scalar* weight,
                   const Scalar* dy, const Scalar* inverse_deviation, const Scalar* mean, Scalar* dx, Scalar* dweight,
                   Scalar* dbias) {
  for (std::int64_t r = 0; r < rows; r++) {
    Scalar along = 0, total = 0;
    auto normal = [&](std::int64_t c) { return (x[r * columns + c] - (layer ? mean[r] : 0)) * inverse_deviation[r]; };
    for (std::int64_t c = 0; c < columns; c++) {
      const Scalar d = dy[r * columns + c];
      along += d * weight[c] * normal(c), total += d * weight[c];
      dweight[c] += d * normal(c);
      if (layer) dbias[c] += d;
    }
    const Scalar n = static_cast<Scalar>(columns);
    for (std::int64_t c = 0; c < columns; c++)
      dx[r * columns + c] =
          inverse_deviation[r] * (dy[r * columns + c] * weight[c] - normal(c) * along / n - (layer ? total / n : 0));
  }
}

}  // namespace longhaul::cuda::plain
