// Matrix products, by the library that a run would time and choose (matmul_libraries.h), beside each library called
// directly.
//
//   m, n, k      op(a) [m, k] times op(b) [k, n] gives c [m, n]
//   ta, tb       1: a is stored [k, m], b [n, k]. A projection x wᵀ is tb=1, dx = dy w neither, dw = dyᵀ x is ta=1
//   bias, add    1: adds a bias to every row; adds to c
//   out          dtype of c: same, or float32 for bfloat16 operands
//   batch        so many products, one after another in memory
#include <algorithm>
#include <memory>

#include "base/error.h"
#include "kernels/cpu/bench/case.h"
#include "kernels/cpu/bench/libraries.h"
#include "kernels/cpu/einsum.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/matmul_libraries.h"

namespace longhaul::cpu::bench {
namespace {

// The rows (or columns) that are checked: all, or where the plain loops would take minutes `most` of them, the first
// and the last among them.
std::vector<std::int64_t> sample(std::int64_t count, std::int64_t most) {
  std::vector<std::int64_t> rows;
  for (std::int64_t i = 0; i < std::min(count, most); ++i)
    rows.push_back(count <= most ? i : i * count / most + i * 7919 % (count / most));
  rows.front() = 0;
  rows.back() = count - 1;
  return rows;
}

struct Operands {
  MatmulProblem problem;
  Tensor *a, *b, *bias, *c;
};

void check_sample(const Operands& t, Case& one, Check& check) {
  const MatmulProblem& p = t.problem;
  const bool whole = p.batch * p.m * p.n * p.k <= 400000000;
  const std::vector<std::int64_t> rows = sample(p.m, whole ? p.m : 97), columns = sample(p.n, whole ? p.n : 1021);
  MatmulProblem part = p;
  part.transpose_a = false;
  part.transpose_b = true;
  part.m = static_cast<std::int64_t>(rows.size());
  part.n = part.ldc = static_cast<std::int64_t>(columns.size());
  part.lda = part.ldb = p.k;
  part.batch = 1;
  part.a = part.b = part.c = part.bias_type = DType::float64;
  std::vector<double> a(static_cast<std::size_t>(part.m * p.k)), b(static_cast<std::size_t>(part.n * p.k)),
      bias(static_cast<std::size_t>(part.n)), c(static_cast<std::size_t>(part.m * part.n)), got(c.size());
  for (std::int64_t matrix = 0; matrix < p.batch; ++matrix) {
    for (std::size_t r = 0; r < rows.size(); ++r)
      for (std::int64_t i = 0; i < p.k; ++i)
        a[r * static_cast<std::size_t>(p.k) + static_cast<std::size_t>(i)] =
            t.a->narrow_at(matrix * p.stride_a + (p.transpose_a ? i * p.lda + rows[r] : rows[r] * p.lda + i));
    for (std::size_t r = 0; r < columns.size(); ++r)
      for (std::int64_t i = 0; i < p.k; ++i)
        b[r * static_cast<std::size_t>(p.k) + static_cast<std::size_t>(i)] =
            t.b->narrow_at(matrix * p.stride_b + (p.transpose_b ? columns[r] * p.ldb + i : i * p.ldb + columns[r]));
    for (std::size_t r = 0; r < columns.size(); ++r)
      if (t.bias) bias[r] = t.bias->narrow_at(columns[r]);
    for (std::size_t r = 0; r < rows.size(); ++r)
      for (std::size_t j = 0; j < columns.size(); ++j) {
        const std::int64_t at = matrix * p.stride_c + rows[r] * p.ldc + columns[j];
        got[r * columns.size() + j] = t.c->narrow_at(at);
        if (p.accumulate) c[r * columns.size() + j] = t.c->wide_at(at);
      }
    reference::matmul(part, a.data(), b.data(), bias.data(), c.data());
    check.compare(
        part.m * part.n, [&](std::int64_t i) { return got[static_cast<std::size_t>(i)]; },
        [&](std::int64_t i) { return c[static_cast<std::size_t>(i)]; }, one.bound(p.c, 0));
  }
  for (std::int64_t i = 0; i < t.c->count; ++i)  // what is not compared is at least written
    if (const double value = t.c->narrow_at(i); value - value != 0)
      check.compare(
          1, [&](std::int64_t) { return value; }, [](std::int64_t) { return 0.0; }, 1);
}

void matmul(Case& c) {
  Operands t{};
  MatmulProblem& p = t.problem;
  p.transpose_a = c.flag("ta");
  p.transpose_b = c.flag("tb");
  p.m = c.size("m");
  p.n = c.size("n");
  p.k = c.size("k");
  p.batch = c.size("batch");
  if (!p.m || !p.n || !p.k || !p.batch) fail("m, n, k and batch are at least 1");
  p.lda = p.transpose_a ? p.m : p.k;
  p.ldb = p.transpose_b ? p.k : p.n;
  p.ldc = p.n;
  p.a = p.b = c.dtype;
  p.c = c.type("out");
  if (p.c != p.a && !(p.a == DType::bfloat16 && p.c == DType::float32))
    fail("out={}; allowed are {}{}", name_of(p.c), name_of(p.a), p.a == DType::bfloat16 ? " and float32" : "");
  p.with_bias = c.flag("bias");
  p.bias_type = p.c;
  p.accumulate = c.flag("add");
  if (p.batch > 1) p.stride_a = p.m * p.k, p.stride_b = p.k * p.n, p.stride_c = p.m * p.n;
  t.a = &c.input(p.batch * p.m * p.k);
  t.b = &c.input(p.batch * p.k * p.n);
  t.bias = p.with_bias ? &c.input_of(p.c, p.n) : nullptr;
  t.c = p.accumulate ? &c.updated(c.input_of(p.c, p.batch * p.m * p.n)) : &c.output_of(p.c, p.batch * p.m * p.n);
  MatmulLibraries libraries(MatmulLibraries::Choice::measured, "");
  const auto plan = std::make_shared<Matmul>(p, c.threads(), "", &libraries);
  c.kernel = plan->backend();
  c.scratch_bytes = plan->scratch_bytes();
  c.call = [plan, t](Side side) {
    plan->run(side.pool, side(*t.a), side(*t.b), t.bias ? side(*t.bias) : nullptr, side(*t.c), side.scratch);
  };
  c.check = [t](Case& one, Check& check) { check_sample(t, one, check); };
  c.tolerance = 64;
  c.flops = 2.0 * static_cast<double>(p.batch * p.m) * static_cast<double>(p.n * p.k);
  for (const char* library : {"onednn", "openblas"})
    if (auto direct = library_matmul(library, p, c.threads()))
      c.peers.push_back({library, [direct, t](Side side) {
                           direct(side(*t.a), side(*t.b), t.bias ? side(*t.bias) : nullptr, side(*t.c));
                         }});
}

// The loops for contractions that are no matrix product: here c[m, n, g] = sum over k of a[m, k, g] b[k, n, g]. They
// are the reference as well as the kernel; the oracle is a plain sum of products written out.
void einsum(Case& c) {
  const std::int64_t m = c.size("m"), n = c.size("n"), g = c.size("g"), k = c.size("k");
  const DType wide = c.dtype == DType::float64 ? DType::float64 : DType::float32;
  const Tensor &a = c.input(m * k * g), &b = c.input(k * n * g), &out = c.output_of(wide, m * n * g);
  c.call = [=, &a, &b, &out](Side side) {
    if (!side.exact) {
      reference::einsum({.type = a.type,
                         .result_type = out.type,
                         .letters = 4,
                         .result_letters = 3,
                         .size = {m, n, g, k},
                         .a_stride = {k * g, 0, 1, g},
                         .b_stride = {0, g, 1, n * g},
                         .a = side(a),
                         .b = side(b),
                         .addend = nullptr,
                         .result = side(out)});
      return;
    }
    for (std::int64_t i = 0; i < m * n * g; ++i) {
      double sum = 0;
      for (std::int64_t j = 0; j < k; ++j)
        sum += a.wide_at(i / (n * g) * k * g + j * g + i % g) * b.wide_at(j * n * g + i % (n * g));
      static_cast<double*>(side(out))[i] = sum;
    }
  };
  c.kernel = "reference";
  c.tolerance = 64;
  c.flops = 2.0 * static_cast<double>(m * n) * static_cast<double>(g * k);
}

}  // namespace

std::vector<Entry> matmul_entries() {
  return {
      {"matmul",
       {"Matmul"},
       "m=1024 n=768 k=768 ta=0 tb=1 bias=0 add=0 out=same batch=1 dtype=float32 threads=1",
       matmul},
      {"einsum", {"einsum"}, "m=64 n=64 g=8 k=64 dtype=float32 threads=1", einsum},
  };
}

}  // namespace longhaul::cpu::bench
