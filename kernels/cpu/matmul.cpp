#include "kernels/cpu/matmul.h"

#include <omp.h>

#include <algorithm>
#include <utility>

#include "base/sanitizers.h"
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
#ifdef LONGHAUL_THREAD_SANITIZER
  threads = 1;  // it does not see OpenMP's barriers, and reports what a library's threads wrote before one
#endif
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

namespace {

bool cuts_rows(const MatmulProblem& p) {
  return p.batch == 1 && !p.transpose_a && p.m >= matmul_result_rows;
}
bool cuts_sum(const MatmulProblem& p) {
  const DType summed = p.a == DType::float64 ? DType::float64 : DType::float32;
  return p.batch == 1 && p.transpose_a && !p.transpose_b && p.c == summed && p.k >= matmul_summed_rows;
}

/// What the library is chosen by: a whole piece, however many there are.
MatmulProblem typical_piece(MatmulProblem p) {
  if (cuts_rows(p)) p.m = matmul_result_rows;
  if (cuts_sum(p)) {
    p.k = matmul_summed_rows;
    p.accumulate = false;
  }
  return p;
}

}  // namespace

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
  const MatmulProblem typical = typical_piece(p);
  const std::string only = one.empty() && libraries ? libraries->choose(typical, threads) : one;
  for (const MatmulChoice& choice : matmul_choices()) {
    if (!only.empty() && only != choice.name) continue;
    std::string reason;
    if (!choice.make(typical, threads, reason)) {
      refusals_.push_back(fmt::format("{}: {}", choice.name, reason));
      continue;
    }
    backend_name_ = choice.name;
    const std::int64_t rows = cuts_rows(p) ? matmul_result_rows : std::max<std::int64_t>(1, p.m),
                       sums = cuts_sum(p) ? matmul_summed_rows : p.k;
    for (std::int64_t first = 0; first < p.k; first += sums)
      for (std::int64_t row = 0; row == 0 || row < p.m; row += rows)
        add_piece(row, std::min(rows, p.m - row), first, std::min(sums, p.k - first));
    return;
  }
  std::string reasons;
  for (const std::string& refusal : refusals_) reasons += "\n  " + refusal;
  fail("no kernel computes the matrix product {}{}{}", describe(problem),
       only.empty() ? "" : fmt::format(" with kernel '{}' (known: onednn, openblas, reference)", only), reasons);
}
Matmul::~Matmul() = default;
Matmul::Matmul(Matmul&&) noexcept = default;
Matmul& Matmul::operator=(Matmul&&) noexcept = default;

void Matmul::add_piece(std::int64_t row, std::int64_t rows, std::int64_t first, std::int64_t summed) {
  MatmulProblem piece = problem_;
  piece.m = rows;
  piece.k = summed;
  if (first > 0) {
    piece.accumulate = true;
    piece.with_bias = false;
  }
  std::size_t at = 0;
  const auto same = [&](const MatmulProblem& other) {
    return other.m == piece.m && other.k == piece.k && other.accumulate == piece.accumulate &&
           other.with_bias == piece.with_bias;
  };
  while (at < shapes_.size() && !same(shapes_[at])) ++at;
  if (at == shapes_.size()) {
    std::string reason;
    for (const MatmulChoice& choice : matmul_choices())
      if (backend_name_ == choice.name) backends_.push_back(choice.make(piece, threads_, reason));
    LONGHAUL_CHECK(backends_.back(), "{} multiplies a large matrix and not a part of it: {}", backend_name_, reason);
    shapes_.push_back(piece);
  }
  pieces_.push_back({row, first, at});
}

std::size_t Matmul::scratch_bytes() const {
  std::size_t most = 0;
  for (const auto& backend : backends_) most = std::max(most, backend->scratch_bytes());
  return most;
}

void Matmul::run(ThreadPool& pool, const void* a, const void* b, const void* bias, void* c, void* scratch) {
  LONGHAUL_CHECK(pool.threads() == threads_, "a matmul planned for {} threads runs on {}", threads_, pool.threads());
  const MatmulProblem& p = problem_;
  if (p.m == 0 || p.n == 0 || p.batch == 0) return;
  const auto size = static_cast<std::int64_t>(size_of(p.a)), result_size = static_cast<std::int64_t>(size_of(p.c));
  for (const Piece& piece : pieces_)
    backends_[piece.backend]->run(
        pool, static_cast<const char*>(a) + (piece.row * p.lda + (p.transpose_a ? piece.first * p.lda : 0)) * size,
        static_cast<const char*>(b) + (p.transpose_b ? 0 : piece.first * p.ldb) * size,
        shapes_[piece.backend].with_bias ? bias : nullptr, static_cast<char*>(c) + piece.row * p.ldc * result_size,
        scratch);
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
