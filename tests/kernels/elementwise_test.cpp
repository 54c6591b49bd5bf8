#include "kernels/cpu/elementwise.h"
#include "kernel_test.h"
#include "kernels/cpu/copy_blocks.h"
#include "kernels/cpu/reductions.h"

using namespace longhaul;
using namespace longhaul::cpu;
using namespace longhaul::cpu::test;

TEST_CASE("add of several operands, in place") {
  for (int operands : {1, 2, 3, 5}) {
    for (std::int64_t count : {1, 17, 32768 + 5}) {
      check_kernel(
          [&](const Run& run) {
            std::vector<Tensor> inputs;
            for (int i = 0; i < operands; ++i) inputs.push_back(run.random(count, static_cast<unsigned>(i)));
            std::vector<const void*> pointers;
            for (const Tensor& input : inputs) pointers.push_back(input.data());
            std::vector<Tensor> out;
            out.push_back(run.output(count));
            const Add p{run.type(), pointers.data(), operands, out[0].data(), count};
            run.reference() ? reference::add(p) : add(*run.pool, p, *run.table);
            Add in_place = p;
            in_place.y = const_cast<void*>(pointers.back());
            run.reference() ? reference::add(in_place) : add(*run.pool, in_place, *run.table);
            CHECK(inputs.back().same_bits(out[0]));
            return out;
          },
          4);
    }
  }
}

TEST_CASE("scale, bias and sum of rows") {
  const double factor = -0.37;
  for (auto [rows, d] : {std::array<std::int64_t, 2>{1, 1}, {5, 19}, {700, 200}, {3, 2000}}) {
    INFO(rows << " x " << d);
    check_kernel(
        [&, rows = rows, d = d](const Run& run) {
          const Tensor x = run.random(rows * d, 1), bias = run.random(d, 2);
          const Tensor wide = run.random_typed(DType::float32, d, 3);
          std::vector<Tensor> out;
          for (int i = 0; i < 3; ++i) out.push_back(run.output(rows * d));
          const DType sum_type = run.storage == DType::float64 ? DType::float64 : DType::float32;
          out.push_back(run.output(sum_type, d));
          Tensor room = scratch(sum_rows_scratch_bytes(run.type(), rows, d));
          const Scale s{run.type(), x.data(), out[0].data(), rows * d, 3.0, &factor};
          const AddBias b{run.type(), x.data(), bias.type(), bias.data(), out[1].data(), rows, d};
          const AddBias c{run.type(), x.data(), wide.type(), wide.data(), out[2].data(), rows, d};
          const SumRows r{run.type(), x.data(), out[3].type(), out[3].data(), rows, d, room.data()};
          if (run.reference()) {
            reference::scale(s);
            reference::add_bias(b);
            reference::add_bias(c);
            reference::sum_rows(r);
          } else {
            scale(*run.pool, s, *run.table);
            add_bias(*run.pool, b, *run.table);
            add_bias(*run.pool, c, *run.table);
            sum_rows(*run.pool, r, *run.table);
          }
          CHECK(room.guard_is_whole());
          return out;
        },
        // The plain float sum of 700 rows has the larger error of the two.
        rows == 700 ? 60 : 4);
  }
}

TEST_CASE("casts agree with the reference bit for bit") {
  static ThreadPool pool(2);
  const std::int64_t count = 1031;
  for (const VectorTable* table : all_tables()) {
    for (DType from : {DType::float64, DType::float32, DType::bfloat16}) {
      for (DType to : {DType::float64, DType::float32, DType::bfloat16}) {
        INFO(table->name << " " << name_of(from) << " -> " << name_of(to));
        Tensor x = Run{.storage = from}.random(count, 7, 100);
        const double odd[] = {INFINITY, -INFINITY, 0.0, 1e-42, 3.4e38, 1.00390625, 1.01171875};
        for (int i = 0; i < 7; ++i) x.set(i, odd[i]);
        Tensor y(to, count), expected(to, count);
        cast(pool, {from, x.data(), to, y.data(), count}, *table);
        reference::cast({from, x.data(), to, expected.data(), count});
        CHECK(y.same_bits(expected));
        x.set(9, NAN);
        cast(pool, {from, x.data(), to, y.data(), count}, *table);
        CHECK(std::isnan(y.at(9)));
        CHECK(y.guard_is_whole());
      }
    }
  }
}

TEST_CASE("copy and fill") {
  static ThreadPool pool(3);
  const Tensor x = Run{.storage = DType::float32}.random(200003, 1);
  Tensor y(DType::float32, x.count());
  copy(pool, x.data(), y.data(), x.bytes());
  CHECK(y.same_bits(x));
  CHECK(y.guard_is_whole());
  fill(pool, DType::float32, -2.5, y.data(), y.count());
  CHECK(y.at(0) == -2.5);
  CHECK(y.at(y.count() - 1) == -2.5);
  CHECK(y.guard_is_whole());
  std::vector<std::int32_t> integers(5, 1);
  fill(pool, DType::int32, -100, integers.data(), 4);
  CHECK(integers == std::vector<std::int32_t>{-100, -100, -100, -100, 1});
}

TEST_CASE("copy_blocks matches the plain loops") {
  static ThreadPool pool(3);
  std::minstd_rand random(5);
  const auto below = [&](int limit) { return static_cast<std::int64_t>(random() % static_cast<unsigned>(limit)); };
  for (int round = 0; round < 200; ++round) {
    const std::int64_t runs[] = {1, 2, 4, 8, 16, 24, 64, 128, 300};
    BlockCopy p{};
    p.run_bytes = runs[below(9)];
    for (auto& count : p.counts) count = below(4) == 0 ? 1 : 1 + below(6);
    // Targets: the levels in a random order, with gaps sometimes, so that runs never overlap. Sources alike.
    const auto strides_of = [&](std::array<std::int64_t, 4>& strides) {
      std::array<int, 4> order{3, 2, 1, 0};
      if (below(3) > 0) std::swap(order[static_cast<std::size_t>(below(4))], order[static_cast<std::size_t>(below(4))]);
      std::int64_t extent = p.run_bytes;
      for (int level : order) {
        if (below(4) == 0) extent += below(9);
        strides[static_cast<std::size_t>(level)] = extent;
        extent *= p.counts[static_cast<std::size_t>(level)];
      }
      return extent;
    };
    const std::int64_t source_size = strides_of(p.source_strides), target_size = strides_of(p.target_strides);
    std::vector<char> source(static_cast<std::size_t>(source_size)), target(static_cast<std::size_t>(target_size), 'x');
    std::vector<char> expected = target;
    for (char& byte : source) byte = static_cast<char>(random());
    p.source = source.data();
    p.target = target.data();
    copy_blocks(pool, p);
    p.target = expected.data();
    reference::copy_blocks(p);
    REQUIRE(target == expected);
  }
}

TEST_CASE("copy_blocks cuts long runs and takes empty ones") {
  static ThreadPool pool(2);
  std::vector<char> source(3 << 20), target(3 << 20), expected;
  for (std::size_t i = 0; i < source.size(); ++i) source[i] = static_cast<char>(i * 7 + i / 1000);
  BlockCopy p{.source = source.data(), .target = target.data(), .counts = {1, 1, 1, 2}, .run_bytes = 1000001};
  p.source_strides[3] = 1500000;
  p.target_strides[3] = 1000001;
  copy_blocks(pool, p);
  CHECK(std::memcmp(target.data(), source.data(), 1000001) == 0);
  CHECK(std::memcmp(target.data() + 1000001, source.data() + 1500000, 1000001) == 0);
  CHECK(target[2000002] == 0);
  p.counts[1] = 0;
  p.target = nullptr;
  copy_blocks(pool, p);
}

TEST_CASE("sum of squares, valid labels and the clipping coefficient") {
  for (std::int64_t count : {1, 4097, 200000}) {
    check_kernel(
        [&](const Run& run) {
          const Tensor x = run.random(count, 3);
          Tensor room = scratch(sum_of_squares_scratch_bytes(count));
          std::vector<Tensor> out;
          out.push_back(Tensor(DType::float64, 1));
          const SumOfSquares p{run.type(), x.data(), count, static_cast<double*>(out[0].data()), room.data()};
          run.reference() ? reference::sum_of_squares(p) : sum_of_squares(*run.pool, p, *run.table);
          CHECK(room.guard_is_whole());
          return out;
        },
        200);  // a plain sum of 200,000 doubles
  }
  const std::int32_t labels[] = {3, -100, 0, -1, 7};
  double result = 0, coefficient = 0, norm = 0;
  count_valid(labels, 5, &result);
  CHECK(result == 3);
  clip_coefficient(16.0, 1.0, &coefficient, &norm);
  CHECK(norm == 4.0);
  CHECK(coefficient == Approx(1.0 / (4.0 + 1e-6)).epsilon(1e-14));
  clip_coefficient(0.25, 1.0, &coefficient, &norm);
  CHECK(coefficient == 1.0);
  clip_coefficient(16.0, 0.0, &coefficient, &norm);
  CHECK(coefficient == 1.0);
  clip_coefficient(NAN, 1.0, &coefficient, &norm);
  CHECK(std::isnan(coefficient));
}
