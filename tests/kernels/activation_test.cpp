#include "kernels/cpu/activation.h"
#include "kernel_test.h"

using namespace longhaul;
using namespace longhaul::cpu;
using namespace longhaul::cpu::test;

namespace {
const ActivationKind kinds[] = {ActivationKind::silu, ActivationKind::gelu, ActivationKind::gelu_tanh,
                                ActivationKind::relu};
}

TEST_CASE("activations and their gradients match the reference") {
  for (ActivationKind kind : kinds) {
    for (std::int64_t count : {1, 15, 64, 8192 + 77}) {
      for (bool in_place : {false, true}) {
        INFO("kind " << static_cast<int>(kind) << ", count " << count << (in_place ? " in place" : ""));
        check_kernel(
            [&](const Run& run) {
              const Tensor x = run.random(count, 1, 3), dy = run.random(count, 2);
              std::vector<Tensor> out;
              out.push_back(in_place ? x : run.output(count));
              out.push_back(in_place ? dy : run.output(count));
              const Activation p{kind, run.type(), in_place ? out[0].data() : x.data(), out[0].data(), count};
              const ActivationGradient g{kind,          run.type(), x.data(), in_place ? out[1].data() : dy.data(),
                                         out[1].data(), count};
              if (run.reference()) {
                reference::activation(p);
                reference::activation_gradient(g);
              } else {
                activation(*run.pool, p, *run.table);
                activation_gradient(*run.pool, g, *run.table);
              }
              return out;
            },
            8);
      }
    }
  }
}

TEST_CASE("gated activations and their gradients match the reference, as halves of one product too") {
  for (ActivationKind kind : kinds) {
    for (auto [rows, width] : {std::array<std::int64_t, 2>{1, 1}, {7, 33}, {40, 1000}}) {
      for (bool halves : {false, true}) {
        INFO("kind " << static_cast<int>(kind) << ", " << rows << " x " << width);
        const std::int64_t stride = halves ? 2 * width : width, size = rows * width;
        check_kernel(
            [&, rows = rows, width = width](const Run& run) {
              const Tensor inputs = run.random(2 * size, 1, 2), dy = run.random(size, 2);
              std::vector<Tensor> out;
              out.push_back(run.output(size));
              out.push_back(run.output(2 * size));
              const auto up_of = [&](const Tensor& tensor) {
                return static_cast<char*>(const_cast<void*>(tensor.data())) +
                       static_cast<std::size_t>(halves ? width : size) * size_of(tensor.type());
              };
              GatedActivation p{kind, run.type(), inputs.data(), up_of(inputs), out[0].data(), rows, width};
              GatedActivationGradient g{kind,          run.type(),    inputs.data(), up_of(inputs), dy.data(),
                                        out[1].data(), up_of(out[1]), rows,          width};
              p.input_stride = g.input_stride = halves ? stride : 0;
              if (run.reference()) {
                reference::gated_activation(p);
                reference::gated_activation_gradient(g);
              } else {
                gated_activation(*run.pool, p, *run.table);
                gated_activation_gradient(*run.pool, g, *run.table);
              }
              return out;
            },
            8);
      }
    }
  }
}

TEST_CASE("activation gradients match finite differences") {
  for (ActivationKind kind : kinds) {
    INFO("kind " << static_cast<int>(kind));
    Tensor gate = Run{}.random(9, 1, 2), up = Run{}.random(9, 2), y(DType::float64, 9);
    Tensor dx(DType::float64, 9), dgate(DType::float64, 9), dup(DType::float64, 9);
    const Tensor c = upper_gradient(9);
    if (kind == ActivationKind::gelu_tanh) {  // as it is usually written
      reference::activation({kind, DType::float64, gate.data(), y.data(), 9});
      for (int i = 0; i < 9; ++i) {
        const double x = gate.at(i);
        CHECK(y.at(i) == Approx(0.5 * x * (1 + std::tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)))));
      }
    }
    reference::activation_gradient({kind, DType::float64, gate.data(), c.data(), dx.data(), 9});
    check_gradient(gate, dx, [&] {
      reference::activation({kind, DType::float64, gate.data(), y.data(), 9});
      return weighted(y, c);
    });
    reference::gated_activation_gradient(
        {kind, DType::float64, gate.data(), up.data(), c.data(), dgate.data(), dup.data(), 3, 3});
    const auto loss = [&] {
      reference::gated_activation({kind, DType::float64, gate.data(), up.data(), y.data(), 3, 3});
      return weighted(y, c);
    };
    check_gradient(gate, dgate, loss);
    check_gradient(up, dup, loss);
  }
}

TEST_CASE("float32 activations are right to a few units in the last place, and keep NaN") {
  static ThreadPool pool(1);
  // Between -10 and 10 every value is compared by its own size, which is where fast polynomials usually fail.
  const std::int64_t count = 40001;
  Tensor x(DType::float32, count), wide(DType::float64, count), y(DType::float32, count), exact(DType::float64, count);
  for (std::int64_t i = 0; i < count; ++i) {
    x.set(i, -10 + 20.0 * static_cast<double>(i) / static_cast<double>(count - 1));
    wide.set(i, x.at(i));
  }
  for (const VectorTable* table : all_tables()) {
    for (ActivationKind kind : kinds) {
      activation(pool, {kind, DType::float32, x.data(), y.data(), count}, *table);
      reference::activation({kind, DType::float64, wide.data(), exact.data(), count});
      double worst = 0;
      for (std::int64_t i = 0; i < count; ++i) {
        const double expected = exact.at(i);
        if (std::abs(expected) < 1e-30) continue;
        worst = std::max(worst, std::abs(y.at(i) - expected) / std::abs(expected));
      }
      INFO(table->name << " kind " << static_cast<int>(kind));
      // exp(-2 u) of gelu_tanh magnifies the rounding of an argument near -90.
      CHECK(worst < (kind == ActivationKind::gelu_tanh ? 200 : 8) * 0x1p-24);
    }
    Tensor odd(DType::float32, 4), out(DType::float32, 4);
    const double values[] = {NAN, 1e30, -1e30, -104};
    for (int i = 0; i < 4; ++i) odd.set(i, values[i]);
    for (ActivationKind kind : kinds) {
      activation(pool, {kind, DType::float32, odd.data(), out.data(), 4}, *table);
      INFO(table->name << " kind " << static_cast<int>(kind));
      if (kind != ActivationKind::relu) CHECK(std::isnan(out.at(0)));
      CHECK(out.at(1) == Approx(1e30));
      CHECK(std::abs(out.at(2)) < 1e-5);
      CHECK(std::abs(out.at(3)) < 1e-30);
    }
  }
}
