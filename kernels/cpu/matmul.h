// Matrix products, by the first library of a list that takes the problem.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/row_block.h"

namespace longhaul {
class ThreadPool;
}
namespace longhaul::cpu {

/// c = op(a) op(b) (+ bias) (+ c), for each of `batch` row-major matrices; op transposes when asked.
struct MatmulProblem {
  bool transpose_a = false;
  bool transpose_b = false;
  std::int64_t m, n, k;        ///< op(a) is [m, k], op(b) is [k, n], c is [m, n]; k >= 1
  std::int64_t lda, ldb, ldc;  ///< elements from row to row of a, b and c as stored
  /// a and b agree. float64 and float32 give c of that type; bfloat16 gives bfloat16 or float32.
  DType a, b, c;
  bool with_bias = false;
  DType bias_type = DType::float32;  ///< of bias [n]: c's, or float32
  bool accumulate = false;           ///< adds to c instead of overwriting it
  std::int64_t batch = 1;
  std::int64_t stride_a = 0, stride_b = 0, stride_c = 0;  ///< elements from matrix to matrix of a batch
};
/// "tn 5x7x3 bfloat16 -> float32 +bias +c" for logs.
std::string describe(const MatmulProblem& problem);

/// One library's way to compute one problem.
class MatmulBackend {
 public:
  virtual ~MatmulBackend() = default;
  virtual std::size_t scratch_bytes() const { return 0; }
  virtual void run(ThreadPool& pool, const void* a, const void* b, const void* bias, void* c, void* scratch) = 0;
};

class MatmulLibraries;

/// How large products are cut, the same whatever library computes them and however many rows there are, so that tiles
/// of rows that begin at multiples of both blocks give the bits of the whole product:
///  - c's rows are computed so many at a time. A library that rounds c at the end needs room for these in float32, not
///    for all of them;
///  - a sum over rows (aT b with c in the type that a's products are summed in: the gradient of a weight) adds up so
///  many
///    at a time to c, in order.
constexpr std::int64_t matmul_result_rows = 1024;
constexpr std::int64_t matmul_summed_rows = row_block;
static_assert(matmul_summed_rows % matmul_result_rows == 0);

/// A product planned once and run often. Planning allocates and may compile code; running allocates nothing of ours. An
/// object serves one caller at a time; different objects may run in different threads at once.
class Matmul {
 public:
  /// Plans for `threads` threads, which must be the size of the pool given to run(). `only` restricts the choice to one
  /// back end by name ("onednn", "openblas", "reference"); Error when that one refuses. Otherwise `libraries` chooses
  /// (matmul_libraries.h), or without one the first that takes the problem is taken.
  Matmul(const MatmulProblem& problem, int threads, const std::string& only = "", MatmulLibraries* libraries = nullptr);
  ~Matmul();
  Matmul(Matmul&&) noexcept;
  Matmul& operator=(Matmul&&) noexcept;

  /// "onednn", "openblas" or "reference".
  const std::string& backend() const { return backend_name_; }
  /// Why the back ends before the chosen one were passed over: "name: reason" each.
  const std::vector<std::string>& refusals() const { return refusals_; }
  /// Size of the scratch that run() needs (a multiple of 64; to be aligned to 64).
  std::size_t scratch_bytes() const;
  /// c does not overlap a or b. `bias` is ignored unless the problem has one.
  void run(ThreadPool& pool, const void* a, const void* b, const void* bias, void* c, void* scratch);

 private:
  /// A part of the product: rows [row, row + m) of c, summed over [first, first + k); pieces of one shape share a back
  /// end.
  struct Piece {
    std::int64_t row, first;
    std::size_t backend;
  };
  void add_piece(std::int64_t row, std::int64_t rows, std::int64_t first, std::int64_t summed);

  MatmulProblem problem_;
  int threads_;
  std::string backend_name_;
  std::vector<std::string> refusals_;
  std::vector<std::unique_ptr<MatmulBackend>> backends_;
  std::vector<MatmulProblem> shapes_;  // of backends_
  std::vector<Piece> pieces_;          // in order
};

/// Back ends, tried in this order. `make` returns null and sets `reason` when it refuses.
struct MatmulChoice {
  const char* name;
  std::unique_ptr<MatmulBackend> (*make)(const MatmulProblem& problem, int threads, std::string& reason);
};
const std::vector<MatmulChoice>& matmul_choices();

std::unique_ptr<MatmulBackend> make_onednn_matmul(const MatmulProblem&, int threads, std::string& reason);
std::unique_ptr<MatmulBackend> make_openblas_matmul(const MatmulProblem&, int threads, std::string& reason);
std::unique_ptr<MatmulBackend> make_reference_matmul(const MatmulProblem&, int threads, std::string& reason);

/// Sets the calling thread's OpenMP thread count while it lives: the libraries run through OpenMP, and ranks that are
/// threads of one process each have their own count. One thread in a build with ThreadSanitizer.
class ScopedOpenMpThreads {
 public:
  explicit ScopedOpenMpThreads(int threads);
  ~ScopedOpenMpThreads();
  ScopedOpenMpThreads(const ScopedOpenMpThreads&) = delete;

 private:
  int before_;
};

namespace reference {
/// Plain loops, summed over k in ascending order in the arithmetic type of a.
void matmul(const MatmulProblem& problem, const void* a, const void* b, const void* bias, void* c);
}  // namespace reference

}  // namespace longhaul::cpu
