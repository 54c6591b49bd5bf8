#include "kernels/cpu/adamw.h"
#include "kernel_test.h"

using namespace longhaul;
using namespace longhaul::cpu;
using namespace longhaul::cpu::test;

TEST_CASE("adamw matches the float64 reference over steps") {
  for (std::int64_t count : {1, 31, 16384 + 100}) {
    for (bool with_copy : {false, true}) {
      INFO(count << (with_copy ? " with a bfloat16 copy" : ""));
      check_kernel(
          [&](const Run& run) {
            // The parameters of a bfloat16 run are float32: only its gradients are narrow.
            const DType type = run.storage == DType::float64 ? DType::float64 : DType::float32;
            std::vector<Tensor> out;
            out.push_back(run.random_typed(type, count, 1));
            out.push_back(Tensor(run.typed(type), count));
            out.push_back(Tensor(run.typed(type), count));
            for (std::int64_t i = 0; i < count; ++i) {
              out[1].set(i, 0);
              out[2].set(i, 0);
            }
            Tensor copy(DType::bfloat16, count);
            const double coefficient = 0.3, rate = 0.01;
            for (int step = 1; step <= 3; ++step) {
              const Tensor gradient = run.random(count, 10 + static_cast<unsigned>(step));
              const double number = step;
              const AdamW p{.type = out[0].type(),
                            .parameter = out[0].data(),
                            .m = out[1].data(),
                            .v = out[2].data(),
                            .gradient_type = gradient.type(),
                            .gradient = gradient.data(),
                            .count = count,
                            .coefficient = &coefficient,
                            .learning_rate = &rate,
                            .step = &number,
                            .beta1 = 0.9,
                            .beta2 = 0.95,
                            .epsilon = 1e-8,
                            .weight_decay = 0.1,
                            .copy = with_copy ? static_cast<bfloat16*>(copy.data()) : nullptr};
              run.reference() ? reference::adamw(p) : adamw(*run.pool, p, *run.table);
            }
            if (with_copy)
              for (std::int64_t i = 0; i < count; ++i)
                if (copy.at(i) != convert<double>(convert<bfloat16>(out[0].at(i)))) FAIL("copy differs at " << i);
            CHECK(copy.guard_is_whole());
            return out;
          },
          16);
    }
  }
}

TEST_CASE("one adamw step by hand") {
  // p = 1, g = 2: m = 0.2, v = 0.004; both corrections undo (1 - beta), so the step is the learning rate.
  double parameter = 1, m = 0, v = 0;
  const double gradient = 2, coefficient = 1, rate = 0.1, step = 1;
  reference::adamw({.type = DType::float64,
                    .parameter = &parameter,
                    .m = &m,
                    .v = &v,
                    .gradient_type = DType::float64,
                    .gradient = &gradient,
                    .count = 1,
                    .coefficient = &coefficient,
                    .learning_rate = &rate,
                    .step = &step,
                    .beta1 = 0.9,
                    .beta2 = 0.999,
                    .epsilon = 0,
                    .weight_decay = 0.5});
  CHECK(m == Approx(0.2));
  CHECK(v == Approx(0.004));
  CHECK(parameter == Approx(1 * (1 - 0.1 * 0.5) - 0.1));
}
