#include "kernel_test.h"
#include "kernels/cpu/cross_entropy.h"
#include "kernels/cpu/loss_head.h"

using namespace longhaul;
using namespace longhaul::cpu;
using namespace longhaul::cpu::test;

namespace {

/// Every third label is ignored, unless `all_ignored`.
std::vector<std::int32_t> labels_for(std::int64_t rows, std::int64_t v, bool all_ignored = false) {
  std::minstd_rand random(11);
  std::vector<std::int32_t> labels;
  for (std::int64_t i = 0; i < rows; ++i)
    labels.push_back(all_ignored || i % 3 == 1 ? -100 : static_cast<std::int32_t>(random() % static_cast<unsigned>(v)));
  return labels;
}

const LogitTransform transforms[] = {{}, {0.25, 0}, {0.5, 3.0}};

}  // namespace

TEST_CASE("cross-entropy and its gradient match the float64 reference") {
  for (auto [rows, v] : {std::array<std::int64_t, 2>{1, 1}, {5, 17}, {7, 300}, {3, 5000}}) {
    for (const LogitTransform& transform : transforms) {
      const auto labels = labels_for(rows, v);
      INFO(rows << " x " << v << ", cap " << transform.soft_cap);
      check_kernel(
          [&, rows = rows, v = v](const Run& run) {
            const Tensor logits = run.random(rows * v, 1, 4);
            const double scale = 0.125;
            std::vector<Tensor> out;
            out.push_back(run.output(rows * v));
            Tensor loss(run.typed(run.storage == DType::float64 ? DType::float64 : DType::float32), 1);
            double sum = 0;
            Tensor room = scratch(cross_entropy_scratch_bytes(run.type(), rows, v, run.pool ? run.pool->threads() : 1));
            const CrossEntropy p{.type = run.type(),
                                 .logits = logits.data(),
                                 .labels = labels.data(),
                                 .rows = rows,
                                 .v = v,
                                 .transform = transform,
                                 .loss_sum = &sum,
                                 .gradient_type = run.type(),
                                 .dlogits = out[0].data(),
                                 .scale = &scale,
                                 .scratch = room.data()};
            run.reference() ? reference::cross_entropy(p) : cross_entropy(*run.pool, p, *run.table);
            if (v > 1) {  // one class: the loss is zero, and its relative error means nothing
              loss.set(0, sum);
              out.push_back(loss);
            } else {
              CHECK(std::abs(sum) < 1e-6);
              CHECK(std::abs(out[0].at(0)) < 1e-6);
              out.clear();
            }
            CHECK(room.guard_is_whole());
            // In place and apart agree.
            if (!run.reference()) {
              Tensor again(logits);
              CrossEntropy in_place = p;
              in_place.logits = in_place.dlogits = again.data();
              in_place.loss_sum = nullptr;
              cross_entropy(*run.pool, in_place, *run.table);
              if (v > 1) CHECK(again.same_bits(out[0]));
            }
            return out;
          },
          20);
    }
  }
}

TEST_CASE("cross-entropy of float32 logits writes a bfloat16 gradient") {
  static ThreadPool pool(2);
  const auto labels = labels_for(6, 100);
  const Tensor logits = Run{.storage = DType::float32}.random(600, 1, 3);
  Tensor wide(DType::float32, 600), narrow(DType::bfloat16, 600);
  const double scale = 0.5;
  Tensor room = scratch(cross_entropy_scratch_bytes(DType::float32, 6, 100, 2));
  CrossEntropy p{.type = DType::float32,
                 .logits = logits.data(),
                 .labels = labels.data(),
                 .rows = 6,
                 .v = 100,
                 .dlogits = wide.data(),
                 .scale = &scale,
                 .scratch = room.data()};
  cross_entropy(pool, p);
  p.gradient_type = DType::bfloat16;
  p.dlogits = narrow.data();
  cross_entropy(pool, p);
  for (int i = 0; i < 600; ++i)
    if (narrow.at(i) != convert<double>(convert<bfloat16>(wide.at(i)))) FAIL("element " << i);
}

TEST_CASE("cross-entropy: infinities and NaN come through, ignored labels do not count") {
  static ThreadPool pool(1);
  for (const VectorTable* table : all_tables()) {
    INFO(table->name);
    std::vector<float> logits(40, 0.0f);
    std::int32_t labels[] = {-1, 3};
    Tensor room = scratch(cross_entropy_scratch_bytes(DType::float32, 2, 20, 1));
    double sum = -1;
    CrossEntropy p{.type = DType::float32,
                   .logits = logits.data(),
                   .labels = labels,
                   .rows = 2,
                   .v = 20,
                   .loss_sum = &sum,
                   .scratch = room.data()};
    cross_entropy(pool, p, *table);
    CHECK(sum == Approx(std::log(20.0)));
    logits[25] = -INFINITY;  // a forbidden token
    cross_entropy(pool, p, *table);
    CHECK(sum == Approx(std::log(19.0)));
    logits[36] = NAN;
    cross_entropy(pool, p, *table);
    CHECK(std::isnan(sum));
    labels[1] = -1;
    cross_entropy(pool, p, *table);
    CHECK(sum == 0);
  }
}

TEST_CASE("cross-entropy gradient matches finite differences") {
  for (const LogitTransform& transform : transforms) {
    const auto labels = labels_for(4, 6);
    Tensor logits = Run{}.random(24, 1, 1.5), gradient(DType::float64, 24);
    const double scale = 0.75;
    double sum = 0;
    CrossEntropy p{.type = DType::float64,
                   .logits = logits.data(),
                   .labels = labels.data(),
                   .rows = 4,
                   .v = 6,
                   .transform = transform,
                   .loss_sum = &sum,
                   .gradient_type = DType::float64,
                   .dlogits = gradient.data(),
                   .scale = &scale};
    reference::cross_entropy(p);
    p.dlogits = nullptr;
    check_gradient(logits, gradient, [&] {
      reference::cross_entropy(p);
      return scale * sum;
    });
  }
}

TEST_CASE("the loss head matches its float64 reference over tiles") {
  struct Shape {
    std::int64_t rows, d, v, tile;
    bool accumulate;
  };
  for (const Shape& shape :
       {Shape{1, 3, 5, 0, false}, {23, 16, 40, 7, false}, {24, 10, 33, 8, true}, {30, 20, 65, 0, true}}) {
    for (const LogitTransform& transform : transforms) {
      for (bool all_ignored : {false, true}) {
        const auto labels = labels_for(shape.rows, shape.v, all_ignored);
        INFO(shape.rows << " rows, d " << shape.d << ", v " << shape.v << ", tile " << shape.tile);
        static ThreadPool one(1), two(2), three(3);
        for (DType storage : {DType::float64, DType::float32, DType::bfloat16}) {
          const auto run_head = [&](const Run& run, const std::string& backend) {
            const Tensor x = run.random(shape.rows * shape.d, 1), w = run.random(shape.v * shape.d, 2);
            const DType gradient_type = storage == DType::float64 ? DType::float64 : DType::float32;
            std::vector<Tensor> out;
            out.push_back(run.output(shape.rows * shape.d));
            out.push_back(shape.accumulate ? run.random_typed(gradient_type, shape.v * shape.d, 3)
                                           : run.output(gradient_type, shape.v * shape.d));
            out.push_back(Tensor(DType::float64, 1));
            const double scale = 0.05;
            const LossHeadProblem p{.type = run.type(),
                                    .rows = shape.rows,
                                    .d = shape.d,
                                    .v = shape.v,
                                    .dweight_type = out[1].type(),
                                    .accumulate = shape.accumulate,
                                    .transform = transform,
                                    .tile_rows = shape.tile};
            LossHeadArguments arguments{.x = x.data(),
                                        .w = w.data(),
                                        .labels = labels.data(),
                                        .scale = &scale,
                                        .loss_sum = static_cast<double*>(out[2].data()),
                                        .dx = out[0].data(),
                                        .dw = out[1].data(),
                                        .scratch = nullptr};
            if (run.reference()) {
              reference::loss_head(p, arguments);
              return out;
            }
            LossHead head(p, run.pool->threads(), backend);
            Tensor room = scratch(head.scratch_bytes());
            arguments.scratch = room.data();
            head.run(*run.pool, arguments, *run.table);
            CHECK(room.guard_is_whole());
            // Evaluation gives the same loss, to the bit.
            LossHeadProblem loss_only = p;
            loss_only.gradients = false;
            LossHead evaluate(loss_only, run.pool->threads(), backend);
            CHECK(evaluate.scratch_bytes() <= head.scratch_bytes());
            double loss = -1;
            arguments.loss_sum = &loss;
            arguments.dx = arguments.dw = nullptr;
            evaluate.run(*run.pool, arguments, *run.table);
            CHECK(loss == out[2].at(0));
            // A head that is not trained gives the same gradient by its input.
            LossHeadProblem frozen = p;
            frozen.trains_weight = false;
            LossHead untrained(frozen, run.pool->threads(), backend);
            CHECK(untrained.scratch_bytes() <= head.scratch_bytes());
            Tensor dx = run.output(shape.rows * shape.d);
            arguments.dx = dx.data();
            untrained.run(*run.pool, arguments, *run.table);
            CHECK(loss == out[2].at(0));
            CHECK(dx.same_bits(out[0]));
            return out;
          };
          const auto expected = run_head(Run{.storage = storage, .exact = true}, "");
          for (const char* backend : {"", "reference"}) {
            for (const VectorTable* table : all_tables()) {
              INFO(table->name << " " << name_of(storage) << " " << backend);
              const auto actual = run_head(Run{.pool = &one, .table = table, .storage = storage}, backend);
              // The gradient of the logits is rounded to bfloat16 for the products.
              const double roundoff = unit_roundoff(storage);
              if (all_ignored) {
                for (std::int64_t i = 0; i < actual[0].count(); ++i) REQUIRE(actual[0].at(i) == 0);
                CHECK(actual[2].at(0) == 0);
              } else {
                CHECK(error_of(actual[0], expected[0]) < 16 * roundoff);
                CHECK(error_of(actual[2], expected[2]) <
                      64 * std::max(unit_roundoff(DType::float32) * (storage != DType::float64), 0x1p-53));
              }
              if (!all_ignored || shape.accumulate) CHECK(error_of(actual[1], expected[1]) < 16 * roundoff);
              if (std::string(backend) == "reference")  // the libraries choose their own order
                for (ThreadPool* pool : {&two, &three}) {
                  const auto again = run_head(Run{.pool = pool, .table = table, .storage = storage}, backend);
                  for (std::size_t i = 0; i < 3; ++i) CHECK(again[i].same_bits(actual[i]));
                }
            }
          }
        }
      }
    }
  }
}

TEST_CASE("the loss head's gradients match finite differences") {
  const std::int64_t rows = 5, d = 3, v = 7;
  const auto labels = labels_for(rows, v);
  Tensor x = Run{}.random(rows * d, 1), w = Run{}.random(v * d, 2);
  Tensor dx(DType::float64, rows * d), dw(DType::float64, v * d);
  const double scale = 0.5;
  double sum = 0;
  LossHeadProblem p{
      .type = DType::float64, .rows = rows, .d = d, .v = v, .dweight_type = DType::float64, .transform = {1.5, 2.0}};
  const LossHeadArguments arguments{.x = x.data(),
                                    .w = w.data(),
                                    .labels = labels.data(),
                                    .scale = &scale,
                                    .loss_sum = &sum,
                                    .dx = dx.data(),
                                    .dw = dw.data(),
                                    .scratch = nullptr};
  reference::loss_head(p, arguments);
  p.gradients = false;
  const auto loss = [&] {
    reference::loss_head(p, arguments);
    return scale * sum;
  };
  check_gradient(x, dx, loss);
  check_gradient(w, dw, loss);
}
