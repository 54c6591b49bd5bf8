#include "kernel_test.h"
#include "kernels/cpu/embedding.h"
#include "kernels/cpu/rope.h"

using namespace longhaul;
using namespace longhaul::cpu;
using namespace longhaul::cpu::test;

namespace {

std::vector<std::int32_t> random_integers(std::int64_t count, std::int32_t below, unsigned seed) {
  std::mt19937 generator(seed);
  std::vector<std::int32_t> result(static_cast<std::size_t>(count));
  for (auto& value : result) value = static_cast<std::int32_t>(generator() % static_cast<unsigned>(below));
  return result;
}

}  // namespace

TEST_CASE("embedding and its gradient match the reference") {
  for (auto [n, v, d] : {std::array<std::int64_t, 3>{1, 1, 1}, {50, 7, 33}, {300, 257, 300}, {20, 1000, 64}}) {
    INFO(n << " tokens of " << v << ", d " << d);
    const auto tokens = random_integers(n, static_cast<std::int32_t>(v), 5);
    check_kernel(
        [&, n = n, v = v, d = d](const Run& run) {
          const Tensor table = run.random(v * d, 1);
          std::vector<Tensor> out{run.output(n * d)};
          const Embedding p{run.type(), tokens.data(), table.data(), out[0].data(), n, v, d};
          run.reference() ? reference::embedding(p) : embedding(*run.pool, p);
          return out;
        },
        0);
    for (auto [narrow, accumulate] :
         {std::pair{DType::float32, false}, {DType::bfloat16, false}, {DType::float32, true}})
      check_kernel(
          [&, n = n, v = v, d = d, narrow = narrow, accumulate = accumulate](const Run& run) {
            const Tensor dy = run.random(n * d, 2);
            const DType type = run.storage == DType::float64 ? DType::float64 : narrow;
            std::vector<Tensor> out{accumulate ? run.random_typed(type, v * d, 3) : run.output(type, v * d)};
            Tensor room = scratch(embedding_gradient_scratch_bytes(n, v));
            EmbeddingGradient p{run.type(), tokens.data(), dy.data(), out[0].type(), out[0].data(), n, v,
                                d,          room.data()};
            p.accumulate = accumulate;
            run.reference() ? reference::embedding_gradient(p) : embedding_gradient(*run.pool, p, *run.table);
            CHECK(room.guard_is_whole());
            return out;
          },
          30);
  }
}

TEST_CASE("embedding gradient matches finite differences") {
  const std::vector<std::int32_t> tokens{2, 0, 2, 4};
  Tensor table = Run{}.random(5 * 3, 1), y(DType::float64, 4 * 3), gradient(DType::float64, 5 * 3);
  const Tensor c = upper_gradient(4 * 3);
  reference::embedding_gradient({.type = DType::float64,
                                 .tokens = tokens.data(),
                                 .dy = c.data(),
                                 .dtable_type = DType::float64,
                                 .dtable = gradient.data(),
                                 .n = 4,
                                 .v = 5,
                                 .d = 3});
  check_gradient(table, gradient, [&] {
    reference::embedding({DType::float64, tokens.data(), table.data(), y.data(), 4, 5, 3});
    return weighted(y, c);
  });
}

TEST_CASE("rope matches the reference, in place and between strides") {
  for (auto [heads, head_dim, rotary] : {std::array<std::int64_t, 3>{3, 64, 64}, {2, 80, 34}, {1, 6, 2}}) {
    for (bool inverse : {false, true}) {
      for (int mode : {0, 1, 2}) {  // separate, in place, out of a wider row
        INFO(heads << " x " << head_dim << ", rotary " << rotary << ", mode " << mode);
        check_kernel(
            [&, heads = heads, head_dim = head_dim, rotary = rotary](const Run& run) {
              const std::int64_t n = 21, width = heads * head_dim, stride = mode == 2 ? width + 5 : width;
              const auto position = random_integers(n, 5000, 3);
              std::vector<double> frequency;
              for (std::int64_t i = 0; i < rotary / 2; ++i)
                frequency.push_back(std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(rotary)));
              Tensor table(run.typed(run.storage == DType::float64 ? DType::float64 : DType::float32), n * rotary);
              const RopeTable make{position.data(), frequency.data(), 1.25, table.type(), table.data(), n, rotary};
              run.reference() ? reference::rope_table(make) : rope_table(*run.pool, make);
              Tensor x = run.random(n * stride, 1);
              std::vector<Tensor> out{mode == 1 ? x : run.output(n * width)};
              const Rope p{.type = run.type(),
                           .x = mode == 1 ? out[0].data() : x.data(),
                           .y = out[0].data(),
                           .table_type = table.type(),
                           .table = table.data(),
                           .n = n,
                           .heads = heads,
                           .head_dim = head_dim,
                           .rotary_dim = rotary,
                           .x_stride = mode == 2 ? stride : 0,
                           .inverse = inverse};
              run.reference() ? reference::rope(p) : rope(*run.pool, p, *run.table);
              return out;
            },
            4);
      }
    }
  }
}

TEST_CASE("rope's angles and inverse") {
  const std::int32_t position[] = {0, 3};
  const double frequency[] = {1.0, 0.5};
  Tensor table(DType::float64, 8);
  reference::rope_table({position, frequency, 2.0, DType::float64, table.data(), 2, 4});
  CHECK(table.at(0) == 2.0);
  CHECK(table.at(2) == 0.0);
  CHECK(table.at(5) == Approx(2 * std::cos(1.5)));
  CHECK(table.at(6) == Approx(2 * std::sin(3.0)));
  // The inverse is the gradient.
  Tensor x = Run{}.random(2 * 2 * 5, 1), y(DType::float64, 20), gradient(DType::float64, 20);
  const Tensor c = upper_gradient(20);
  Rope p{.type = DType::float64,
         .x = x.data(),
         .y = y.data(),
         .table_type = DType::float64,
         .table = table.data(),
         .n = 2,
         .heads = 2,
         .head_dim = 5,
         .rotary_dim = 4};
  Rope back = p;
  back.x = c.data();
  back.y = gradient.data();
  back.inverse = true;
  reference::rope(back);
  check_gradient(x, gradient, [&] {
    reference::rope(p);
    return weighted(y, c);
  });
}

TEST_CASE("rope takes a float32 table beside float64 activations and the other way round") {
  static ThreadPool pool(2);
  const std::int32_t position[] = {7, 11, 13};
  const double frequency[] = {1.0, 0.25};
  for (DType type : {DType::float64, DType::float32}) {
    const DType table_type = type == DType::float64 ? DType::float32 : DType::float64;
    Tensor table(table_type, 12), x = Run{.storage = type}.random(12, 1), y(type, 12);
    rope_table(pool, {position, frequency, 1.0, table_type, table.data(), 3, 4});
    Rope p{.type = type,
           .x = x.data(),
           .y = y.data(),
           .table_type = table_type,
           .table = table.data(),
           .n = 3,
           .heads = 1,
           .head_dim = 4,
           .rotary_dim = 4};
    rope(pool, p);
    for (int token = 0; token < 3; ++token) {
      const double angle = position[token] * frequency[0];
      const double first = x.at(token * 4), second = x.at(token * 4 + 2);
      CHECK(y.at(token * 4) == Approx(first * std::cos(angle) - second * std::sin(angle)).margin(1e-6));
    }
  }
}
