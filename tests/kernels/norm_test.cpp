#include "kernel_test.h"
#include "kernels/cpu/layer_norm.h"
#include "kernels/cpu/rms_norm.h"

using namespace longhaul;
using namespace longhaul::cpu;
using namespace longhaul::cpu::test;

namespace {

struct Shape {
  std::int64_t rows, d;
};
const Shape shapes[] = {{1, 1}, {3, 7}, {130, 64}, {37, 100}, {5, 777}, {600, 257}};

/// y and, when fused, the sum.
template <typename Norm>
std::vector<Tensor> forward(const Run& run, Shape shape, bool fused, DType weight_type) {
  const std::int64_t size = shape.rows * shape.d;
  const Tensor x = run.random(size, 1, 2, 0.5), residual = run.random(size, 2);
  const Tensor w = run.random_typed(weight_type, shape.d, 3), bias = run.random_typed(weight_type, shape.d, 4);
  std::vector<Tensor> out;
  out.push_back(run.output(size));
  if (fused) out.push_back(run.output(size));
  Norm p{};
  p.type = run.type();
  p.x = x.data();
  p.weight_type = w.type();
  p.weight = w.data();
  p.y = out[0].data();
  p.rows = shape.rows;
  p.d = shape.d;
  p.epsilon = 1e-5;
  if (fused) {
    p.residual = residual.data();
    p.sum = out[1].data();
  }
  if constexpr (std::is_same_v<Norm, LayerNorm>) {
    p.bias = bias.data();
    run.reference() ? reference::layer_norm(p) : layer_norm(*run.pool, p, *run.table);
  } else {
    run.reference() ? reference::rms_norm(p) : rms_norm(*run.pool, p, *run.table);
  }
  return out;
}

/// dx, dweight and, for the layer norm, dbias.
template <typename Gradient>
std::vector<Tensor> backward(const Run& run, Shape shape, bool fused, DType weight_type, DType dweight_type,
                             bool in_place) {
  const std::int64_t size = shape.rows * shape.d;
  const Tensor x = run.random(size, 1, 2, 0.5), residual = run.random(size, 2);
  const Tensor w = run.random_typed(weight_type, shape.d, 3);
  Tensor dy = run.random(size, 5);
  constexpr bool layer = std::is_same_v<Gradient, LayerNormGradient>;
  std::vector<Tensor> out;
  out.push_back(in_place ? dy : run.output(size));
  out.push_back(run.output(dweight_type, shape.d));
  if (layer) out.push_back(run.output(dweight_type, shape.d));
  Gradient p{};
  p.type = run.type();
  p.x = x.data();
  p.weight_type = w.type();
  p.weight = w.data();
  p.dy = in_place ? out[0].data() : dy.data();
  p.residual_gradient = fused ? residual.data() : nullptr;
  p.dx = out[0].data();
  p.dweight_type = out[1].type();
  p.dweight = out[1].data();
  p.rows = shape.rows;
  p.d = shape.d;
  p.epsilon = 1e-5;
  if constexpr (layer) {
    p.dbias = out[2].data();
    Tensor room = scratch(layer_norm_gradient_scratch_bytes(p.type, p.rows, p.d));
    p.scratch = room.data();
    run.reference() ? reference::layer_norm_gradient(p) : layer_norm_gradient(*run.pool, p, *run.table);
    CHECK(room.guard_is_whole());
  } else {
    Tensor room = scratch(rms_norm_gradient_scratch_bytes(p.type, p.rows, p.d));
    p.scratch = room.data();
    run.reference() ? reference::rms_norm_gradient(p) : rms_norm_gradient(*run.pool, p, *run.table);
    CHECK(room.guard_is_whole());
  }
  return out;
}

}  // namespace

TEST_CASE("rms_norm and layer_norm match the float64 reference") {
  for (Shape shape : shapes) {
    for (bool fused : {false, true}) {
      INFO(shape.rows << " x " << shape.d << (fused ? " fused" : ""));
      check_kernel(
          [&](const Run& run) {
            auto out = forward<RmsNorm>(run, shape, fused, run.storage);
            return out;
          },
          fused ? 12 : 8);
      // A row of one element is its own mean: what is left is rounding of the fused sum.
      if (shape.d > 1)
        check_kernel([&](const Run& run) { return forward<LayerNorm>(run, shape, fused, run.storage); }, 16);
    }
  }
}

TEST_CASE("norm weights may be float32 beside other activations") {
  check_kernel([&](const Run& run) { return forward<RmsNorm>(run, {9, 70}, false, DType::float32); }, 8);
  check_kernel([&](const Run& run) { return forward<LayerNorm>(run, {9, 70}, false, DType::float32); }, 8);
  check_kernel(
      [&](const Run& run) {
        return backward<RmsNormGradient>(run, {9, 70}, false, DType::float32, run.storage, false);
      },
      20);
}

TEST_CASE("norm gradients match the float64 reference, in place too") {
  for (Shape shape : shapes) {
    for (bool fused : {false, true}) {
      for (bool in_place : {false, true}) {
        const DType gradient = shape.d % 2 ? DType::float32 : DType::float64;
        INFO(shape.rows << " x " << shape.d << (fused ? " fused" : "") << (in_place ? " in place" : ""));
        if (shape.rows == 600 && fused != in_place) continue;  // the big one is slow
        if (shape.d == 1) continue;                            // dx is exactly zero but for epsilon: all rounding
        const auto narrow = [&](const Run& run) { return run.storage == DType::float64 ? DType::float64 : gradient; };
        check_kernel(
            [&](const Run& run) {
              return backward<RmsNormGradient>(run, shape, fused, run.storage, narrow(run), in_place);
            },
            40);
        check_kernel(
            [&](const Run& run) {
              return backward<LayerNormGradient>(run, shape, fused, run.storage, narrow(run), in_place);
            },
            60);
      }
    }
  }
}

TEST_CASE("norm gradients match finite differences") {
  const Shape shape{3, 5};
  const std::int64_t size = shape.rows * shape.d;
  const Run run;
  Tensor x = run.random(size, 1), w = run.random(shape.d, 2), bias = run.random(shape.d, 3);
  Tensor y(DType::float64, size), dx(DType::float64, size), dw(DType::float64, shape.d), db(DType::float64, shape.d);
  const Tensor c = upper_gradient(size), through = run.random(size, 8);
  SECTION("rms_norm, with a gradient that flows past it") {
    const auto loss = [&] {
      reference::rms_norm({.type = DType::float64,
                           .x = x.data(),
                           .weight_type = DType::float64,
                           .weight = w.data(),
                           .y = y.data(),
                           .rows = shape.rows,
                           .d = shape.d,
                           .epsilon = 0.1});
      return weighted(y, c) + weighted(x, through);
    };
    reference::rms_norm_gradient({.type = DType::float64,
                                  .x = x.data(),
                                  .weight_type = DType::float64,
                                  .weight = w.data(),
                                  .dy = c.data(),
                                  .residual_gradient = through.data(),
                                  .dx = dx.data(),
                                  .dweight_type = DType::float64,
                                  .dweight = dw.data(),
                                  .rows = shape.rows,
                                  .d = shape.d,
                                  .epsilon = 0.1});
    check_gradient(x, dx, loss);
    check_gradient(w, dw, loss);
  }
  SECTION("layer_norm") {
    const auto loss = [&] {
      reference::layer_norm({.type = DType::float64,
                             .x = x.data(),
                             .weight_type = DType::float64,
                             .weight = w.data(),
                             .bias = bias.data(),
                             .y = y.data(),
                             .rows = shape.rows,
                             .d = shape.d,
                             .epsilon = 0.1});
      return weighted(y, c) + weighted(x, through);
    };
    reference::layer_norm_gradient({.type = DType::float64,
                                    .x = x.data(),
                                    .weight_type = DType::float64,
                                    .weight = w.data(),
                                    .dy = c.data(),
                                    .residual_gradient = through.data(),
                                    .dx = dx.data(),
                                    .dweight_type = DType::float64,
                                    .dweight = dw.data(),
                                    .dbias = db.data(),
                                    .rows = shape.rows,
                                    .d = shape.d,
                                    .epsilon = 0.1});
    check_gradient(x, dx, loss);
    check_gradient(w, dw, loss);
    check_gradient(bias, db, loss);
  }
}
