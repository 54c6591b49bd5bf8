#include "kernels/cpu/attention.h"

#include <catch2/catch.hpp>
#include <cstdlib>

#include "tests/kernels_attention/attention_case.h"

using namespace attention_test;

namespace {

const std::vector<Shape> shapes = {
    // batch, queries, keys, heads, kv_heads, head_dim, window, order, documents
    {1, 1, 1, 1, 1, 64, 0, Order::natural, Documents::one},
    {2, 1, 1, 2, 1, 8, 1, Order::natural, Documents::own},
    {1, 1, 300, 2, 2, 64, 0, Order::ring, Documents::one},
    {1, 13, 13, 3, 1, 40, 0, Order::natural, Documents::one},
    {2, 49, 49, 2, 2, 32, 7, Order::zigzag, Documents::random},
    {1, 192, 192, 1, 1, 64, 0, Order::natural, Documents::one},
    {1, 193, 193, 2, 1, 64, 0, Order::natural, Documents::random},
    {1, 333, 333, 2, 2, 64, 0, Order::natural, Documents::one},
    {1, 401, 401, 1, 1, 80, 70, Order::natural, Documents::one},
    {1, 500, 500, 1, 1, 32, 33, Order::zigzag, Documents::one},
    {2, 250, 250, 4, 2, 96, 0, Order::zigzag, Documents::random},
    {1, 260, 260, 2, 1, 128, 0, Order::shuffled, Documents::one},
    {1, 210, 210, 1, 1, 256, 0, Order::natural, Documents::one},
    {1, 130, 410, 6, 2, 64, 0, Order::ring, Documents::random},
    {1, 410, 130, 3, 3, 72, 0, Order::ring, Documents::one},
    {1, 300, 200, 2, 1, 64, 0, Order::blind, Documents::one},
    {1, 220, 220, 2, 2, 16, 5, Order::blind, Documents::random},
    {1, 97, 97, 8, 8, 24, 0, Order::shuffled, Documents::own},
    {3, 100, 50, 12, 4, 56, 20, Order::shuffled, Documents::random},
    {1, 800, 800, 1, 1, 64, 0, Order::natural, Documents::random},
    {2, 250, 250, 4, 2, 96, 0, Order::zigzag, Documents::random, 0.7},
    {1, 300, 200, 2, 1, 64, 0, Order::blind, Documents::one, 50},
    {1, 401, 401, 1, 1, 256, 70, Order::natural, Documents::one, 2},
    {1, 130, 410, 6, 2, 64, 0, Order::ring, Documents::random, 0.1},
};

/// The fast implementations that run here.
template <typename T>
std::vector<const AttentionImplementation*> fast(const Problem& p) {
  std::vector<const AttentionImplementation*> all;
  for (const auto& one : attention_implementations())
    if (one.name != "reference" && one.refusal(p.problem, dtype_of<T>).empty()) all.push_back(&one);
  return all;
}

template <typename T>
double bound(double reference_error) {
  return 2 * std::max(reference_error, unit_roundoff(dtype_of<T>));
}

/// Where no row sees two keys, dq and dk are zero but for cancellation, and the reference kernel is exact by luck: its
/// one weight is exp(s - s). Errors are then measured against the size of what cancels, and four roundings allowed.
bool one_key_a_row(const Shape& shape) {
  return shape.keys == 1 || shape.window == 1 || shape.documents == Documents::own;
}

template <typename T>
void compare_with_reference(const Shape& shape) {
  const Problem p(shape);
  const auto& reference = implementation("reference");
  ThreadPool pool(1);
  const Inputs<T> in(p);
  const Inputs<double> exact_in(in);
  const Forward<double> exact(reference, p, exact_in, pool);
  const Backward<double> exact_gradients(reference, p, exact_in, exact, pool);
  const Forward<T> plain(reference, p, in, pool);
  const Backward<T> plain_gradients(reference, p, in, plain, pool);

  for (const auto* one : fast<T>(p)) {
    INFO(one->name << " " << longhaul::name_of(dtype_of<T>) << " " << shape);
    const Forward<T> blocked(*one, p, in, pool);
    CHECK(error(blocked.out, exact.out) <= bound<T>(error(plain.out, exact.out)));
    const double floor = one_key_a_row(shape) ? 1 : 0, factor = one_key_a_row(shape) ? 2 : 1;
    // Statistics are float32 in either case; their errors are those of logits, whose size is about one.
    CHECK(error(blocked.log_sum_exp, exact.log_sum_exp, 1) <=
          factor * bound<float>(error(plain.log_sum_exp, exact.log_sum_exp, 1)));
    const Backward<T> gradients(*one, p, in, plain, pool);
    auto compare = [&](const auto& got, const auto& reference_got, const auto& expected) {
      CHECK(error(got, expected, floor) <= factor * bound<T>(error(reference_got, expected, floor)));
    };
    compare(gradients.dq, plain_gradients.dq, exact_gradients.dq);
    compare(gradients.dk, plain_gradients.dk, exact_gradients.dk);
    compare(gradients.dv, plain_gradients.dv, exact_gradients.dv);
  }
}

}  // namespace

TEST_CASE("blocked attention is as exact as the reference kernel of its dtype") {
  for (const Shape& shape : shapes) {
    compare_with_reference<float>(shape);
    compare_with_reference<bfloat16>(shape);
  }
}

TEST_CASE("each row sees the keys of its interval and no other") {
  for (const Shape& shape : shapes) {
    const Problem p(shape);
    Inputs<float> in(p);
    std::fill(in.q.begin(), in.q.end(), 0.f);  // equal logits: log_sum_exp is the logarithm of the number of keys
    ThreadPool pool(1);
    for (const auto& one : attention_implementations()) {
      if (!one.refusal(p.problem, DType::float32).empty()) continue;
      const Forward<float> forward(one, p, in, pool);
      std::int64_t wrong = 0;
      for (std::int64_t b = 0; b < shape.batch; ++b)
        for (std::int64_t q = 0; q < shape.queries; ++q) {
          const std::int64_t at = p.query_index[static_cast<std::size_t>(b * shape.queries + q)];
          const std::int64_t start = p.key_start[static_cast<std::size_t>(b * shape.queries + q)];
          std::int64_t count = 0;
          for (std::int64_t k = 0; k < shape.keys; ++k) {
            const std::int64_t index = p.key_index[static_cast<std::size_t>(b * shape.keys + k)];
            count += index <= at && index >= std::max(start, shape.window ? at - shape.window + 1 : 0);
          }
          for (std::int64_t h = 0; h < shape.heads; ++h) {
            const float got = forward.log_sum_exp[static_cast<std::size_t>((b * shape.heads + h) * shape.queries + q)];
            wrong += std::llround(std::exp(static_cast<double>(got))) != count;
          }
        }
      INFO(one.name << " " << shape);
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("rows that see nothing give 0, -infinity and no gradient") {
  const Shape shape{1, 60, 70, 2, 1, 32, 0, Order::blind, Documents::one};
  const Problem p(shape);
  ThreadPool pool(1);
  const Inputs<float> in(p);
  int blind = 0;
  for (const auto& one : attention_implementations()) {
    if (!one.refusal(p.problem, DType::float32).empty()) continue;
    INFO(one.name);
    const Forward<float> forward(one, p, in, pool);
    const Backward<float> backward(one, p, in, forward, pool);
    for (std::size_t q = 0; q < 60; ++q) {
      if (p.query_index[q] >= 20) continue;  // keys begin at index 60 / 3
      ++blind;
      for (std::size_t h = 0; h < 2; ++h) {
        CHECK(forward.log_sum_exp[h * 60 + q] == -INFINITY);
        for (std::size_t d = 0; d < 32; ++d) {
          CHECK(forward.out[(q * 2 + h) * 32 + d] == 0);
          CHECK(backward.dq[(q * 2 + h) * 32 + d] == 0);
        }
      }
    }
  }
  CHECK(blind >= 20);
}

TEST_CASE("large and small logits do not overflow") {
  const Shape shape{1, 150, 150, 1, 1, 64, 0, Order::natural, Documents::one};
  for (float factor : {1e-3f, 60.f}) {
    Problem p(shape);
    p.problem.scale *= factor;
    ThreadPool pool(1);
    const Inputs<float> in(p);
    const Forward<double> exact(implementation("reference"), p, Inputs<double>(in), pool);
    const Backward<double> exact_gradients(implementation("reference"), p, Inputs<double>(in), exact, pool);
    for (const auto* one : fast<float>(p)) {
      INFO(one->name << " scale x " << factor);
      const Forward<float> forward(*one, p, in, pool);
      const Backward<float> backward(*one, p, in, forward, pool);
      // Absolute errors of the logits grow with them.
      CHECK(error(forward.out, exact.out) < 1e-6 * std::max(1.f, factor));
      CHECK(error(backward.dq, exact_gradients.dq) < 2e-6 * std::max(1.f, factor));
      CHECK(error(backward.dk, exact_gradients.dk) < 2e-6 * std::max(1.f, factor));
      CHECK(error(backward.dv, exact_gradients.dv) < 2e-6 * std::max(1.f, factor));
    }
  }
}

TEST_CASE("bfloat16 in, float32 out and gradients, overwritten or added to") {
  const Shape shape{2, 130, 170, 4, 2, 72, 0, Order::ring, Documents::random};
  const Problem p(shape);
  ThreadPool pool(2);
  const Inputs<bfloat16> in(p);
  const double addend = 3;
  const auto& reference = implementation("reference");
  const Forward<double> exact(reference, p, Inputs<double>(in), pool);
  const Backward<double> exact_gradients(reference, p, Inputs<double>(in), exact, pool);
  Backward<double> exact_sum(reference, p, Inputs<double>(in), exact, pool, &addend);
  CHECK(std::abs(exact_sum.dk[5] - exact_gradients.dk[5] - addend) < 1e-12);
  for (const auto& one : attention_implementations()) {
    if (!one.refusal(p.problem, DType::bfloat16).empty()) continue;
    INFO(one.name);
    const Forward<bfloat16, float> forward(one, p, in, pool);
    const Backward<bfloat16, float> gradients(one, p, in, forward, pool);
    const Backward<bfloat16, float> sums(one, p, in, forward, pool, &addend);
    const double tolerance = one.name == "avx512bf16" ? 3e-3 : 2e-6;  // the others round nothing to bfloat16
    CHECK(error(forward.out, exact.out) < tolerance);
    CHECK(error(gradients.dq, exact_gradients.dq) < tolerance);
    CHECK(error(gradients.dk, exact_gradients.dk) < tolerance);
    CHECK(error(gradients.dv, exact_gradients.dv) < tolerance);
    CHECK(error(sums.dq, exact_sum.dq) < tolerance);
    CHECK(error(sums.dk, exact_sum.dk) < tolerance);
    CHECK(error(sums.dv, exact_sum.dv) < tolerance);
  }
}

TEST_CASE("the exponential is accurate to 2e-7") {
  // Two keys whose logits are 0 and -x: log_sum_exp is log(1 + exp(-x)). Over x < ln 2 the power of two passes through
  // the whole range of its polynomial, and x and its product with 1 are exact in bfloat16 too.
  const Shape shape{1, 356, 2, 1, 1, 8, 0, Order::natural, Documents::one};
  Problem p(shape);
  p.problem.scale = 1;
  p.query_index.assign(p.query_index.size(), 1);
  p.key_start.assign(p.key_start.size(), 0);
  Inputs<bfloat16> in(p);
  for (auto* array : {&in.q, &in.k}) array->assign(array->size(), bfloat16(0));
  for (std::size_t q = 0; q < 356; ++q) in.q[q * 8] = bfloat16(static_cast<float>(q % 178) / 256);
  in.k[8] = bfloat16(-1);
  const Inputs<float> widened(in);
  ThreadPool pool(1);
  auto check = [&](std::string_view name, const std::vector<float>& log_sum_exp) {
    double worst = 0;
    for (std::size_t q = 0; q < 356; ++q) {
      const double x = cast<double>(in.q[q * 8]), weight = std::exp(-x);
      // The larger weight must be exactly 1. An error e of the other moves log_sum_exp by e weight / (1 + weight).
      worst = std::max(worst, std::abs(log_sum_exp[q] - std::log1p(weight)) * (1 + weight) / weight);
    }
    INFO(name);
    // Besides, the sum (below 2) and its logarithm (below 1) are rounded to float: 2^-24 and 2^-25, times up to 2
    // and 3.
    CHECK(worst < 2e-7 + 3.5 * 0x1p-24);
  };
  for (const auto* one : fast<float>(p)) check(one->name, Forward<float>(*one, p, widened, pool).log_sum_exp);
  for (const auto* one : fast<bfloat16>(p)) check(one->name, Forward<bfloat16>(*one, p, in, pool).log_sum_exp);
}

TEST_CASE("tiles outside the visible interval are not read") {
  // Two documents that meet at a boundary of every kind of tile; the first is all NaN. Zero weights times NaN would
  // show.
  const std::size_t S = 1000, boundary = 576, D = 64;
  Problem p({1, 1000, 1000, 1, 1, 64, 0, Order::natural, Documents::one});
  for (std::size_t q = boundary; q < S; ++q) p.key_start[q] = boundary;
  Inputs<float> in(p);
  for (auto* array : {&in.q, &in.k, &in.v, &in.dout})
    std::fill(array->begin(), array->begin() + boundary * D, std::nanf(""));
  ThreadPool pool(1);
  auto finite_after_boundary = [&](const std::vector<float>& x) {
    return std::isnan(x[5]) && std::all_of(x.begin() + boundary * D, x.end(), [](float y) { return std::isfinite(y); });
  };
  for (const auto* one : fast<float>(p)) {
    INFO(one->name);
    const Forward<float> forward(*one, p, in, pool);
    const Backward<float> backward(*one, p, in, forward, pool);
    CHECK(finite_after_boundary(forward.out));
    CHECK(finite_after_boundary(backward.dq));
    CHECK(finite_after_boundary(backward.dk));
    CHECK(finite_after_boundary(backward.dv));
  }
}

TEMPLATE_TEST_CASE("threads do not change a bit", "[threads]", float, bfloat16) {
  for (const Shape& shape : {Shape{1, 900, 900, 1, 1, 64, 0, Order::natural, Documents::one},
                             Shape{2, 333, 410, 4, 2, 40, 50, Order::zigzag, Documents::random},
                             Shape{1, 600, 600, 3, 1, 136, 0, Order::shuffled, Documents::random}}) {
    const Problem p(shape);
    const Inputs<TestType> in(p);
    ThreadPool one_thread(1), two(2), three(3);
    for (const auto* one : fast<TestType>(p)) {
      INFO(one->name << " " << shape);
      const Forward<TestType> forward(*one, p, in, one_thread);
      const Backward<TestType> backward(*one, p, in, forward, one_thread);
      for (ThreadPool* pool : {&one_thread, &two, &three}) {
        const Forward<TestType> again(*one, p, in, *pool);
        CHECK(same_bits(again.out, forward.out));
        CHECK(same_bits(again.log_sum_exp, forward.log_sum_exp));
        const Backward<TestType> gradients(*one, p, in, forward, *pool);
        CHECK(same_bits(gradients.dq, backward.dq));
        CHECK(same_bits(gradients.dk, backward.dk));
        CHECK(same_bits(gradients.dv, backward.dv));
      }
    }
  }
}

TEST_CASE("the reference backward is the derivative of the reference forward") {
  for (const Shape& shape : {Shape{1, 7, 9, 4, 2, 8, 0, Order::ring, Documents::one},
                             Shape{2, 8, 8, 2, 1, 3, 3, Order::zigzag, Documents::random},
                             Shape{1, 9, 6, 1, 1, 8, 0, Order::blind, Documents::one}}) {
    const Problem p(shape);
    ThreadPool pool(1);
    const auto& reference = implementation("reference");
    Inputs<double> in(p);
    const Forward<double> forward(reference, p, in, pool);
    const Backward<double> gradients(reference, p, in, forward, pool);
    auto loss = [&] {
      const Forward<double> f(reference, p, in, pool);
      double sum = 0;
      for (std::size_t i = 0; i < f.out.size(); ++i) sum += f.out[i] * in.dout[i];
      return sum;
    };
    auto check = [&](std::vector<double>& x, const std::vector<double>& gradient) {
      std::vector<double> difference;
      for (double& value : x) {
        const double old = value, step = 1e-5;
        value = old + step;
        const double up = loss();
        value = old - step;
        difference.push_back((up - loss()) / (2 * step));
        value = old;
      }
      CHECK(error(gradient, difference) < 1e-8);
    };
    INFO(shape);
    check(in.q, gradients.dq);
    check(in.k, gradients.dk);
    check(in.v, gradients.dv);
  }
}

TEST_CASE("the best implementation is chosen, and those that refuse say why") {
  Problem p({1, 8, 8, 1, 1, 64, 0, Order::natural, Documents::one});
  std::vector<std::string> refusals;
  CHECK(select_attention(p.problem, DType::float64, &refusals).name == "reference");
  CHECK(refusals.size() == 3);
  p.problem.head_dim = 20;
  refusals.clear();
  CHECK(select_attention(p.problem, DType::float32, &refusals).name == "reference");
  REQUIRE(refusals.size() == 3);
  CHECK(refusals[2].find("20") != std::string::npos);
  p.problem.head_dim = 264;
  CHECK(select_attention(p.problem, DType::float32).name == "reference");
  p.problem.head_dim = 64;
  p.problem.scale = -1;
  CHECK(select_attention(p.problem, DType::float32).name == "reference");
  p.problem.scale = 1;

  setenv("LONGHAUL_ISA", "generic", 1);
  CHECK(select_attention(p.problem, DType::float32).name == "reference");
  setenv("LONGHAUL_ISA", "avx2", 1);
  const std::string avx2(select_attention(p.problem, DType::float32).name);
  setenv("LONGHAUL_ISA", "avx9", 1);
  CHECK_THROWS_WITH(select_attention(p.problem, DType::float32), Catch::Contains("avx9"));
  unsetenv("LONGHAUL_ISA");
  CHECK((avx2 == "avx2" || avx2 == "reference"));
  // Shapes and dtypes that no caller of ours may pass.
  ThreadPool pool(1);
  p.problem.heads = 3, p.problem.kv_heads = 2;
  CHECK_THROWS_AS(implementation("reference").forward(p.problem, {}, pool, nullptr), std::logic_error);
}
