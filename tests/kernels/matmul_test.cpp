#include <cstring>
#include <thread>

#include "base/error.h"
#include "kernel_test.h"
#include "kernels/cpu/matmul.h"

using namespace longhaul;
using namespace longhaul::cpu;
using namespace longhaul::cpu::test;

namespace {

struct Case {
  MatmulProblem problem;
  std::int64_t a_count, b_count, c_count;
};

/// A random problem; `padding` widens the leading dimensions.
Case random_case(std::minstd_rand& random, DType type, DType out) {
  const auto below = [&](int limit) { return static_cast<std::int64_t>(random() % static_cast<unsigned>(limit)); };
  MatmulProblem p{};
  p.m = 1 + below(70);
  p.n = 1 + below(70);
  p.k = 1 + below(90);
  p.transpose_a = below(2);
  p.transpose_b = below(2);
  const std::int64_t padding = below(3) == 0 ? below(5) : 0;
  p.lda = (p.transpose_a ? p.m : p.k) + padding;
  p.ldb = (p.transpose_b ? p.k : p.n) + padding;
  p.ldc = p.n + padding;
  p.a = p.b = type;
  p.c = out;
  p.with_bias = below(2);
  p.bias_type = below(2) && type != DType::float64 ? DType::float32 : out;
  p.accumulate = below(2);
  p.batch = below(3) == 0 ? 1 + below(4) : 1;
  p.stride_a = (p.transpose_a ? p.k : p.m) * p.lda + padding;
  p.stride_b = (p.transpose_b ? p.n : p.k) * p.ldb;
  p.stride_c = p.m * p.ldc;
  return {p, p.batch * p.stride_a, p.batch * p.stride_b, p.batch * p.stride_c};
}

/// Error of the product against plain loops in double, in units of what rounding allows.
double error_units(const Case& of, Matmul& matmul, ThreadPool& pool, unsigned seed) {
  const MatmulProblem& p = of.problem;
  const Run run{.storage = p.a};
  const Tensor a = run.random(of.a_count, seed), b = run.random(of.b_count, seed + 1);
  const Tensor bias = run.random_typed(p.bias_type, p.n, seed + 2);
  const Tensor before = run.random_typed(p.c, of.c_count, seed + 3);
  Tensor c = p.accumulate ? Tensor(before) : Tensor(p.c, of.c_count);
  const Tensor untouched(c);
  Tensor room = scratch(matmul.scratch_bytes());
  matmul.run(pool, a.data(), b.data(), bias.data(), c.data(), room.data());
  CHECK(room.guard_is_whole());
  CHECK(c.guard_is_whole());
  double worst = 0;
  for (std::int64_t batch = 0; batch < p.batch; ++batch) {
    for (std::int64_t i = 0; i < p.m; ++i) {
      for (std::int64_t j = 0; j < p.ldc; ++j) {
        const std::int64_t at = batch * p.stride_c + i * p.ldc + j;
        if (j >= p.n) {  // the padding of a row stays as it was
          if (std::memcmp(static_cast<const char*>(c.data()) + static_cast<std::size_t>(at) * size_of(p.c),
                          static_cast<const char*>(untouched.data()) + static_cast<std::size_t>(at) * size_of(p.c),
                          size_of(p.c)) != 0)
            return INFINITY;
          continue;
        }
        double sum = (p.with_bias ? bias.at(j) : 0) + (p.accumulate ? before.at(at) : 0), size = std::abs(sum);
        for (std::int64_t l = 0; l < p.k; ++l) {
          const double x = a.at(batch * p.stride_a + (p.transpose_a ? l * p.lda + i : i * p.lda + l));
          const double y = b.at(batch * p.stride_b + (p.transpose_b ? j * p.ldb + l : l * p.ldb + j));
          sum += x * y;
          size += std::abs(x * y);
        }
        if (!std::isfinite(c.at(at))) return INFINITY;
        const double sum_roundoff =
            p.a == DType::float64 ? unit_roundoff(DType::float64) : unit_roundoff(DType::float32);
        const double allowed = size * sum_roundoff * 8 + 2 * std::abs(sum) * unit_roundoff(p.c) +
                               (p.accumulate || p.with_bias ? size * unit_roundoff(p.c) : 0);
        worst = std::max(worst, std::abs(c.at(at) - sum) / allowed);
      }
    }
  }
  return worst;
}

MatmulProblem plain(std::int64_t m, std::int64_t n, std::int64_t k, DType type) {
  return {.m = m, .n = n, .k = k, .lda = k, .ldb = n, .ldc = n, .a = type, .b = type, .c = type};
}

bool has(const char* name) {
  std::string reason;
  MatmulProblem p = plain(2, 2, 2, DType::float32);
  for (const MatmulChoice& choice : matmul_choices())
    if (std::string(name) == choice.name) return choice.make(p, 1, reason) != nullptr;
  return false;
}

}  // namespace

TEST_CASE("matrix products of every back end match plain loops in double") {
  static ThreadPool one(1), two(2);
  std::minstd_rand random(3);
  int tried = 0;
  for (int round = 0; round < 60; ++round) {
    for (auto [type, out] : {std::pair{DType::float64, DType::float64},
                             {DType::float32, DType::float32},
                             {DType::bfloat16, DType::float32},
                             {DType::bfloat16, DType::bfloat16}}) {
      const Case of = random_case(random, type, out);
      for (const MatmulChoice& choice : matmul_choices()) {
        ThreadPool& pool = round % 2 ? two : one;
        std::string reason;
        if (!choice.make(of.problem, pool.threads(), reason)) continue;
        ++tried;
        Matmul matmul(of.problem, pool.threads(), choice.name);
        CHECK(matmul.backend() == choice.name);
        INFO(choice.name << ": " << describe(of.problem) << " lda " << of.problem.lda);
        CHECK(error_units(of, matmul, pool, static_cast<unsigned>(round)) <= 1);
      }
    }
  }
  CHECK(tried >= 240);
}

// Tiles of rows (passes/tile_mlp.cpp) rest on this.
TEST_CASE("products over tiles of rows have the bits of the whole product, whatever library computes them") {
  static ThreadPool one(1), two(2);
  for (const auto& dtypes : {std::pair{DType::float64, DType::float64},
                             {DType::float32, DType::float32},
                             {DType::bfloat16, DType::float32},
                             {DType::bfloat16, DType::bfloat16}})
    for (const MatmulChoice& choice : matmul_choices())
      for (ThreadPool* pool : {&one, &two})
        for (const bool sums : {false, true}) {  // over rows, or a row of c for a row of a
          const DType type = dtypes.first, out = dtypes.second;
          const std::int64_t rows = sums ? 2 * row_block + 500 : 2 * matmul_result_rows + 300;
          if (sums && out == DType::bfloat16) continue;
          for (const bool transpose_b : {false, true}) {
            MatmulProblem p = sums ? plain(24, 16, rows, type) : plain(rows, 24, 16, type);
            p.c = out;
            if (sums) {
              p.transpose_a = true;
              p.lda = 24;
            } else if (transpose_b) {
              p.transpose_b = true;
              p.ldb = 16;
            }
            std::string reason;
            if (!choice.make(p, pool->threads(), reason)) continue;
            INFO(choice.name << ": " << describe(p) << ", " << pool->threads() << " threads");
            const Run run{.storage = type};
            const Tensor a = run.random(p.m * p.k, 1), b = run.random(p.k * p.n, 2),
                         before = run.random_typed(out, p.m * p.n, 3);
            const auto multiply = [&](MatmulProblem part, std::int64_t row, Tensor& c) {
              Matmul matmul(part, pool->threads(), choice.name);
              Tensor room = scratch(matmul.scratch_bytes());
              const auto size = static_cast<std::int64_t>(size_of(type));
              matmul.run(
                  *pool, static_cast<const char*>(a.data()) + row * p.lda * size,
                  static_cast<const char*>(b.data()) + (sums ? row * p.ldb * size : 0), nullptr,
                  static_cast<char*>(c.data()) + (sums ? 0 : row * p.ldc * static_cast<std::int64_t>(size_of(out))),
                  room.data());
            };
            p.accumulate = transpose_b;  // of sums, which have no such b
            Tensor whole(before);
            multiply(p, 0, whole);
            for (const std::int64_t tile :
                 sums ? std::vector<std::int64_t>{row_block, 2 * row_block}
                      : std::vector<std::int64_t>{matmul_result_rows, 2 * matmul_result_rows}) {
              Tensor tiled(before);
              for (std::int64_t row = 0; row < rows; row += tile) {
                MatmulProblem part = p;
                (sums ? part.k : part.m) = std::min(tile, rows - row);
                if (sums) part.accumulate = p.accumulate || row > 0;
                multiply(part, row, tiled);
              }
              INFO("tiles of " << tile);
              CHECK(std::memcmp(tiled.data(), whole.data(), static_cast<std::size_t>(p.m * p.n) * size_of(out)) == 0);
            }
          }
        }
}

TEST_CASE("the list of back ends is followed and refusals are told") {
  MatmulProblem p = plain(3, 4, 5, DType::float64);
  const Matmul matmul(p, 1);
  if (has("openblas")) {
    CHECK(matmul.backend() == "openblas");
    REQUIRE(matmul.refusals().size() == 1);
    CHECK(matmul.refusals()[0].find("onednn: ") == 0);
  } else {
    CHECK(matmul.backend() == "reference");
  }
  CHECK(Matmul(p, 1, "reference").backend() == "reference");
  CHECK_THROWS_AS(Matmul(p, 1, "onednn"), Error);
  CHECK_THROWS_AS(Matmul(p, 1, "mkl"), Error);
  p.a = p.b = p.c = DType::float32;
  if (has("onednn")) CHECK(Matmul(p, 1).backend() == "onednn");
  p.lda = 4;
  CHECK_THROWS_AS(Matmul(p, 1), std::logic_error);
}

TEST_CASE("ranks that are threads of one process multiply at the same time", "[threads]") {
  // Each has its own pool, number of threads and problem.
  constexpr int ranks = 4;
  double errors[ranks] = {};
  int counts[ranks] = {};
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([rank, &errors, &counts] {
      ThreadPool pool(1 + rank % 3);
      const ScopedOpenMpThreads outer(7);
      std::minstd_rand random(static_cast<unsigned>(rank) + 1);
      for (int round = 0; round < 12; ++round) {
        const DType type = round % 3 == 0 ? DType::float64 : round % 3 == 1 ? DType::float32 : DType::bfloat16;
        const Case of = random_case(random, type, type == DType::bfloat16 ? DType::float32 : type);
        const MatmulProblem& p = of.problem;
        Matmul matmul(p, pool.threads());
        const Run run{.storage = p.a};
        const Tensor a = run.random(of.a_count, 1), b = run.random(of.b_count, 2);
        const Tensor bias = run.random_typed(p.bias_type, p.n, 3);
        Tensor c = run.random_typed(p.c, of.c_count, 4), expected(c);
        std::vector<char> room(matmul.scratch_bytes() + 64);
        char* aligned = room.data() + (64 - reinterpret_cast<std::uintptr_t>(room.data()) % 64) % 64;
        matmul.run(pool, a.data(), b.data(), bias.data(), c.data(), aligned);
        reference::matmul(p, a.data(), b.data(), bias.data(), expected.data());
        // Padding between the rows was random in both and is compared along.
        errors[rank] = std::max(errors[rank], error_of(c, expected));
        ++counts[rank];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int rank = 0; rank < ranks; ++rank) {
    CHECK(counts[rank] == 12);
    CHECK(errors[rank] < 1e-5);
  }
}

TEST_CASE("the calling thread's OpenMP thread count is restored") {
  const ScopedOpenMpThreads outer(3);
  { const ScopedOpenMpThreads inner(2); }
  std::string reason;
  MatmulProblem p = plain(2, 2, 2, DType::float32);
  Matmul matmul(p, 1);
  ThreadPool pool(2);
  CHECK_THROWS_AS(matmul.run(pool, nullptr, nullptr, nullptr, nullptr, nullptr), std::logic_error);
}
