// Matrix products by OpenBLAS: float64, and float32 where oneDNN is missing or slower (matmul_libraries.h).
#include <limits>

#include "kernels/cpu/matmul.h"
#include "kernels/cpu/support.h"

#ifdef LONGHAUL_WITH_OPENBLAS
#include <cblas.h>
#endif

namespace longhaul::cpu {

#ifndef LONGHAUL_WITH_OPENBLAS

std::unique_ptr<MatmulBackend> make_openblas_matmul(const MatmulProblem&, int, std::string& reason) {
  reason = "this build has no OpenBLAS";
  return nullptr;
}

#else

namespace {

void gemm(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, const MatmulProblem& p, const double* a, const double* b, double beta,
          double* c) {
  cblas_dgemm(CblasRowMajor, ta, tb, static_cast<blasint>(p.m), static_cast<blasint>(p.n), static_cast<blasint>(p.k), 1,
              a, static_cast<blasint>(p.lda), b, static_cast<blasint>(p.ldb), beta, c, static_cast<blasint>(p.ldc));
}
void gemm(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, const MatmulProblem& p, const float* a, const float* b, float beta,
          float* c) {
  cblas_sgemm(CblasRowMajor, ta, tb, static_cast<blasint>(p.m), static_cast<blasint>(p.n), static_cast<blasint>(p.k), 1,
              a, static_cast<blasint>(p.lda), b, static_cast<blasint>(p.ldb), beta, c, static_cast<blasint>(p.ldc));
}

class OpenBlasMatmul final : public MatmulBackend {
 public:
  explicit OpenBlasMatmul(const MatmulProblem& problem) : problem_(problem) {}

  void run(ThreadPool& pool, const void* a, const void* b, const void* bias, void* c, void*) override {
    dispatch_floating(problem_.a, [&](auto t) {
      using T = decltype(t);
      if constexpr (!std::is_same_v<T, bfloat16>)
        run_typed(pool, static_cast<const T*>(a), static_cast<const T*>(b), bias, static_cast<T*>(c));
    });
  }

 private:
  template <typename T>
  void run_typed(ThreadPool& pool, const T* a, const T* b, const void* bias, T* c) {
    const MatmulProblem& p = problem_;
    ScopedOpenMpThreads scope(pool.threads());
    for (std::int64_t i = 0; i < p.batch; ++i) {
      T* to = c + i * p.stride_c;
      // The bias goes in first, where the product is then added: no second pass over c.
      if (bias) {
        for (std::int64_t row = 0; row < p.m; ++row) {
          for (std::int64_t j = 0; j < p.n; ++j) {
            const T value = p.bias_type == p.c ? static_cast<const T*>(bias)[j]
                                               : static_cast<T>(static_cast<const float*>(bias)[j]);
            to[row * p.ldc + j] = p.accumulate ? to[row * p.ldc + j] + value : value;
          }
        }
      }
      gemm(p.transpose_a ? CblasTrans : CblasNoTrans, p.transpose_b ? CblasTrans : CblasNoTrans, p, a + i * p.stride_a,
           b + i * p.stride_b, bias || p.accumulate ? T(1) : T(0), to);
    }
  }

  MatmulProblem problem_;
};

}  // namespace

std::unique_ptr<MatmulBackend> make_openblas_matmul(const MatmulProblem& p, int, std::string& reason) {
  if (p.a == DType::bfloat16) {
    reason = "bfloat16 is left to oneDNN";
    return nullptr;
  }
  for (std::int64_t size : {p.m, p.n, p.k, p.lda, p.ldb, p.ldc}) {
    if (size > std::numeric_limits<blasint>::max()) {
      reason = fmt::format("a size of {} does not fit OpenBLAS's integers", size);
      return nullptr;
    }
  }
  return std::make_unique<OpenBlasMatmul>(p);
}

#endif

}  // namespace longhaul::cpu
