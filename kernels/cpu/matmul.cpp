#include "kernels/cpu/matmul.h"

#include <omp.h>

#include <utility>

#include "kernels/cpu/matmul_libraries.h"
#include "kernels/cpu/support.h"

namespace longhaul::cpu {

std::string describe(const MatmulProblem& p) {
  std::string text = fmt::format("{}{} {}x{}x{} {} -> {}", p.transpose_a ? 't' : 'n', p.transpose_b ? 't' : 'n', p.m,
                                 p.n, p.k, name_of(p.a), name_of(p.c));
  if (p.batch != 1) text += fmt::format(" batch {}", p.batch);
  if (p.with_bias) text += " +bias";
  if (p.accumulate) text += " +c";
  return text;
}

ScopedOpenMpThreads::ScopedOpenMpThreads(int threads) : before_(omp_get_max_threads()) {
  if (before_ != threads) omp_set_num_threads(threads);
}
ScopedOpenMpThreads::~ScopedOpenMpThreads() {
  if (omp_get_max_threads() != before_) omp_set_num_threads(before_);
}

const std::vector<MatmulChoice>& matmul_choices() {
  static const std::vector<MatmulChoice> choices = {
      {"onednn", make_onednn_matmul},
      {"openblas", make_openblas_matmul},
      {"reference", make_reference_matmul},
  };
  return choices;
}

Matmul::Matmul(const MatmulProblem& problem, int threads, const std::string& one, MatmulLibraries* libraries)
    : problem_(problem), threads_(threads) {
  const auto& p = problem;
  LONGHAUL_CHECK(p.m >= 0 && p.n >= 0 && p.k >= 1 && p.batch >= 0, "matmul {}: sizes", describe(p));
  LONGHAUL_CHECK(p.lda >= (p.transpose_a ? p.m : p.k) && p.ldb >= (p.transpose_b ? p.k : p.n) && p.ldc >= p.n,
                 "matmul {}: leading dimensions {}, {}, {}", describe(p), p.lda, p.ldb, p.ldc);
  LONGHAUL_CHECK(is_floating(p.a) && p.a == p.b && (p.c == p.a || (p.a == DType::bfloat16 && p.c == DType::float32)),
                 "matmul {}: b is {}", describe(p), name_of(p.b));
  LONGHAUL_CHECK(!p.with_bias || p.bias_type == p.c || p.bias_type == DType::float32, "matmul {}: bias is {}",
                 describe(p), name_of(p.bias_type));
  const std::string only = one.empty() && libraries ? libraries->choose(problem, threads) : one;
  for (const MatmulChoice& choice : matmul_choices()) {
    if (!only.empty() && only != choice.name) continue;
    std::string reason;
    backend_ = choice.make(problem, threads, reason);
    if (backend_) {
      backend_name_ = choice.name;
      return;
    }
    refusals_.push_back(fmt::format("{}: {}", choice.name, reason));
  }
  std::string reasons;
  for (const std::string& refusal : refusals_) reasons += "\n  " + refusal;
  fail("no kernel computes the matrix product {}{}{}", describe(problem),
       only.empty() ? "" : fmt::format(" with kernel '{}' (known: onednn, openblas, reference)", only), reasons);
}
Matmul::~Matmul() = default;
Matmul::Matmul(Matmul&&) noexcept = default;
Matmul& Matmul::operator=(Matmul&&) noexcept = default;

void Matmul::run(ThreadPool& pool, const void* a, const void* b, const void* bias, void* c, void* scratch) {
  LONGHAUL_CHECK(pool.threads() == threads_, "a matmul planned for {} threads runs on {}", threads_, pool.threads());
  if (problem_.m == 0 || problem_.n == 0 || problem_.batch == 0) return;
  backend_->run(pool, a, b, problem_.with_bias ? bias : nullptr, c, scratch);
}

namespace {

/// One row of one matrix of the batch.
template <typename T, typename C>
void reference_row(const MatmulProblem& p, std::int64_t batch, std::int64_t row, const void* a_start,
                   const void* b_start, const void* bias, void* c_start) {
  using A = accumulate_t<T>;
  const T* a = static_cast<const T*>(a_start) + batch * p.stride_a + (p.transpose_a ? row : row * p.lda);
  const T* b = static_cast<const T*>(b_start) + batch * p.stride_b;
  C* c = static_cast<C*>(c_start) + batch * p.stride_c + row * p.ldc;
  const std::int64_t a_step = p.transpose_a ? p.lda : 1, b_step = p.transpose_b ? 1 : p.ldb;
  for (std::int64_t column = 0; column < p.n; ++column) {
    const T* b_column = b + (p.transpose_b ? column * p.ldb : column);
    A sum = 0;
    for (std::int64_t i = 0; i < p.k; ++i) sum += read(a[i * a_step]) * read(b_column[i * b_step]);
    if (bias)
      sum += p.bias_type == p.c ? convert<A>(static_cast<const C*>(bias)[column])
                                : convert<A>(static_cast<const float*>(bias)[column]);
    if (p.accumulate) sum += convert<A>(c[column]);
    c[column] = convert<C>(sum);
  }
}

void reference_rows(const MatmulProblem& p, std::int64_t begin, std::int64_t end, const void* a, const void* b,
                    const void* bias, void* c) {
  dispatch_floating(p.a, [&](auto t) {
    using T = decltype(t);
    for (std::int64_t i = begin; i < end; ++i) {
      if (p.c == p.a)
        reference_row<T, T>(p, i / p.m, i % p.m, a, b, bias, c);
      else
        reference_row<T, float>(p, i / p.m, i % p.m, a, b, bias, c);
    }
  });
}

class ReferenceMatmul final : public MatmulBackend {
 public:
  explicit ReferenceMatmul(const MatmulProblem& problem) : problem_(problem) {}
  void run(ThreadPool& pool, const void* a, const void* b, const void* bias, void* c, void*) override {
    const MatmulProblem& p = problem_;
    parallel_for(pool, p.batch * p.m, rows_per_task(p.n * p.k),
                 [&](std::int64_t begin, std::int64_t end) { reference_rows(p, begin, end, a, b, bias, c); });
  }

 private:
  MatmulProblem problem_;
};

}  // namespace

std::unique_ptr<MatmulBackend> make_reference_matmul(const MatmulProblem& problem, int, std::string&) {
  return std::make_unique<ReferenceMatmul>(problem);
}

namespace reference {
void matmul(const MatmulProblem& p, const void* a, const void* b, const void* bias, void* c) {
  reference_rows(p, 0, p.batch * p.m, a, b, p.with_bias ? bias : nullptr, c);
}
}  // namespace reference

}  // namespace longhaul::cpu
