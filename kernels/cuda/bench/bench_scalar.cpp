// What a step keeps in float64 on the device: constants, products, clipping, counts and the sum of losses.
#include <algorithm>
#include <cmath>

#include "kernels/cuda/bench/values.h"

namespace longhaul::cuda::bench {
namespace {

// The largest relative difference; NaN where there is one.
double worst(const std::vector<double>& got, const std::vector<double>& want) {
  double error = 0;
  for (std::size_t i = 0; i < want.size(); i++) {
    const double apart = std::abs(got[i] - want[i]) / std::max(std::abs(want[i]), 1e-300);
    if (!(apart <= error)) error = apart;
  }
  return error;
}

enum class Kind { constant, product, clip };

// `count` calls in a row, each on scalars of its own: what a launch costs.
Measurement scalars(Context& context, const Shape& shape, Kind kind) {
  const auto count = static_cast<std::size_t>(shape.number("count"));
  std::vector<double> a(count), b(count);
  for (std::size_t i = 0; i < count; i++) {
    a[i] = static_cast<double>(i * i) / 7;  // norms on both sides of max_norm
    b[i] = 1.25 - static_cast<double>(i) / 3;
  }
  const double *d_a = on_device(context, a), *d_b = on_device(context, b);
  auto *out = static_cast<double*>(context.allocate(count * 8)),
       *norm = static_cast<double*>(context.allocate(count * 8));
  const double max_norm = 2;
  Measurement m;
  context.time(m, [&] {
    for (std::size_t i = 0; i < count; i++) {
      const ScalarConstant constant{b[i], out + i};
      const ScalarProduct product{d_a + i, d_b + i, out + i};
      const ClipCoefficient clip{d_a + i, max_norm, out + i, norm + i};
      context.succeed(kind == Kind::constant  ? context.api.scalar_constant(&constant, nullptr)
                      : kind == Kind::product ? context.api.scalar_product(&product, nullptr)
                                              : context.api.clip_coefficient(&clip, nullptr));
    }
  });
  std::vector<double> want = b, got(count);
  if (kind == Kind::product)
    for (std::size_t i = 0; i < count; i++) want[i] *= a[i];
  if (kind == Kind::clip) {
    std::vector<double> norms(count), got_norms(count);
    for (std::size_t i = 0; i < count; i++) {
      norms[i] = std::sqrt(a[i]);
      want[i] = std::min(1.0, max_norm / (norms[i] + 1e-6));
    }
    context.download(got_norms.data(), norm, count * 8);
    m.error = worst(got_norms, norms);
  }
  context.download(got.data(), out, count * 8);
  const double apart = worst(got, want);
  if (!(apart <= m.error)) m.error = apart;
  m.bound = 1e-14;
  m.bytes = (kind == Kind::constant ? 8.0 : 24.0) * static_cast<double>(count);
  return m;
}

Measurement count_valid(Context& context, const Shape& shape) {
  const std::int64_t count = shape.number("count");
  std::vector<std::int32_t> label;
  double want = 0;
  for (std::int64_t i = 0; i < count; i++) {
    label.push_back(i % 7 == 3 ? -100 : static_cast<std::int32_t>(i % 11));
    want += label.back() >= 0;
  }
  auto* const to = static_cast<double*>(context.allocate(8));
  const CountValid call{count, on_device(context, label), to};
  Measurement m = measured(context, call, &Api::count_valid, 4.0 * static_cast<double>(count), 0);
  double got = 0;
  context.download(&got, to, 8);
  m.error = worst({got}, {want});
  return m;
}

Measurement loss_sum(Context& context, const Shape& shape) {
  const std::int64_t rows = shape.number("rows");
  const Values loss(context, Type::float32, rows, 1);
  auto* const result = static_cast<double*>(context.allocate(8));
  LossSum call{rows, static_cast<const float*>(loss.device), 0, result};
  Measurement m = measured(context, call, &Api::loss_sum, 4.0 * static_cast<double>(rows), 1e-12);
  call.accumulate = 1;
  context.succeed(context.api.loss_sum(&call, nullptr));
  double got = 0, want = 0, size = 0;
  context.download(&got, result, 8);
  for (const float value : loss.host) want += 2.0 * value, size += 2 * std::abs(static_cast<double>(value));
  m.error = std::abs(got - want) / size;
  return m;
}

}  // namespace

std::vector<Op> scalar_ops() {
  using std::placeholders::_1, std::placeholders::_2;
  const std::vector<std::string> many = {"count=100"}, few = {"count=5"};
  return {
      {"scalar_constant", {"scalar_constant"}, many, few, std::bind(scalars, _1, _2, Kind::constant)},
      {"scalar_product", {"scalar_product"}, many, few, std::bind(scalars, _1, _2, Kind::product)},
      {"clip_coefficient", {"clip_coefficient"}, many, {"count=9"}, std::bind(scalars, _1, _2, Kind::clip)},
      {"count_valid", {"count_valid"}, {"count=131072"}, {"count=1031"}, count_valid},
      {"loss_sum", {"loss_sum"}, {"rows=131072"}, {"rows=1031"}, loss_sum},
  };
}

}  // namespace longhaul::cuda::bench
