// Norms over rows, with the residual's addition in the same pass or without, and their gradients.
//
//   rows, d     rows of d elements
//   residual    1: x + residual is stored and normalised; in the gradient, what flows into the sum already is added
//   offset      1: an RMS norm's factor is 1 + weight
//   weight      dtype of weight and bias: same, or float32. Their gradients are float32, or float64
#include "kernels/cpu/bench/case.h"
#include "kernels/cpu/center.h"
#include "kernels/cpu/layer_norm.h"
#include "kernels/cpu/rms_norm.h"

namespace longhaul::cpu::bench {
namespace {

constexpr double epsilon = 1e-5;

DType wide_type(const Case& c) {
  return c.dtype == DType::float64 ? DType::float64 : DType::float32;
}

template <bool layer>
void norm(Case& c) {
  const std::int64_t rows = c.size("rows"), d = c.size("d");
  const DType weight_type = c.type("weight");
  const bool residual = c.flag("residual");
  double offset = 0;
  if constexpr (!layer) offset = c.flag("offset") ? 1 : 0;
  const Tensor &x = c.input(rows * d), &other = c.input(residual ? rows * d : 1),
               &weight = c.input_of(weight_type, d, 0.2, 1);
  const Tensor* bias = layer ? &c.input_of(weight_type, d) : nullptr;
  Tensor* sum = residual ? &c.output(rows * d) : nullptr;
  const Tensor& y = c.output(rows * d);
  c.call = [=, &x, &other, &weight, &y](Side side) {
    std::conditional_t<layer, LayerNorm, RmsNorm> p{};
    p.type = side(y.type);
    p.x = side(x);
    if (sum) p.residual = side(other), p.sum = side(*sum);
    p.weight_type = side(weight.type);
    p.weight = side(weight);
    p.y = side(y);
    p.rows = rows;
    p.d = d;
    p.epsilon = epsilon;
    if constexpr (layer) {
      p.bias = side(*bias);
      side.exact ? reference::layer_norm(p) : longhaul::cpu::layer_norm(side.pool, p);
    } else {
      p.weight_offset = offset;
      side.exact ? reference::rms_norm(p) : longhaul::cpu::rms_norm(side.pool, p);
    }
  };
  c.tolerance = 16;
  c.bytes = (residual ? 4.0 : 2.0) * static_cast<double>(x.narrow.bytes());
}

template <bool layer>
void norm_gradient(Case& c) {
  const std::int64_t rows = c.size("rows"), d = c.size("d");
  const bool residual = c.flag("residual");
  double offset = 0;
  if constexpr (!layer) offset = c.flag("offset") ? 1 : 0;
  const Tensor &x = c.input(rows * d), &weight = c.input_of(c.type("weight"), d, 0.2, 1), &dy = c.input(rows * d),
               &other = c.input(residual ? rows * d : 1), &dx = c.output(rows * d),
               &dweight = c.output_of(wide_type(c), d);
  const Tensor* dbias = layer ? &c.output_of(wide_type(c), d) : nullptr;
  c.scratch_bytes =
      layer ? layer_norm_gradient_scratch_bytes(c.dtype, rows, d) : rms_norm_gradient_scratch_bytes(c.dtype, rows, d);
  c.call = [=, &x, &weight, &dy, &other, &dx, &dweight](Side side) {
    std::conditional_t<layer, LayerNormGradient, RmsNormGradient> p{};
    p.type = side(x.type);
    p.x = side(x);
    p.weight_type = side(weight.type);
    p.weight = side(weight);
    p.dy = side(dy);
    p.residual_gradient = residual ? side(other) : nullptr;
    p.dx = side(dx);
    p.dweight_type = side(dweight.type);
    p.dweight = side(dweight);
    p.rows = rows;
    p.d = d;
    p.epsilon = epsilon;
    p.scratch = side.scratch;
    if constexpr (layer) {
      p.dbias = side(*dbias);
      side.exact ? reference::layer_norm_gradient(p) : longhaul::cpu::layer_norm_gradient(side.pool, p);
    } else {
      p.weight_offset = offset;
      side.exact ? reference::rms_norm_gradient(p) : longhaul::cpu::rms_norm_gradient(side.pool, p);
    }
  };
  c.tolerance = 64;
  c.bytes = (residual ? 4.0 : 3.0) * static_cast<double>(x.narrow.bytes());
}

void centered(Case& c) {
  const std::int64_t rows = c.size("rows"), d = c.size("d");
  const Tensor &x = c.input(rows * d), &y = c.output(rows * d);
  c.call = [=, &x, &y](Side side) {
    longhaul::cpu::center(side.pool, {.type = side(x.type), .x = side(x), .y = side(y), .rows = rows, .d = d});
  };
  c.tolerance = 16;
  c.bytes = 2.0 * static_cast<double>(x.narrow.bytes());
}

constexpr const char* defaults = "rows=16384 d=2048 residual=1 weight=same dtype=float32 threads=1";
constexpr const char* rms_defaults = "rows=16384 d=2048 residual=1 weight=same offset=0 dtype=float32 threads=1";

}  // namespace

std::vector<Entry> norm_entries() {
  return {
      {"rms_norm", {"rms_norm"}, rms_defaults, norm<false>},
      {"rms_norm_gradient", {"rms_norm_gradient"}, rms_defaults, norm_gradient<false>},
      {"center", {"center"}, "rows=16384 d=2048 dtype=float32 threads=1", centered},
      {"layer_norm", {"layer_norm"}, defaults, norm<true>},
      {"layer_norm_gradient", {"layer_norm_gradient"}, defaults, norm_gradient<true>},
  };
}

}  // namespace longhaul::cpu::bench
