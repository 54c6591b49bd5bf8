// The loss head: logits = x w^T, cross-entropy and all gradients, in tiles over rows. Logits exist for one tile at a
// time and are computed once.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/dtype.h"
#include "kernels/cpu/cross_entropy.h"
#include "kernels/cpu/matmul.h"

namespace longhaul {
class ThreadPool;
}
namespace longhaul::cpu {

struct LossHeadProblem {
  DType type;               ///< of x, w and dx
  std::int64_t rows;        ///< tokens
  std::int64_t d, v;        ///< hidden size and vocabulary
  DType dweight_type;       ///< float32, or float64 when type is float64
  bool accumulate = false;  ///< adds to dw instead of overwriting it
  bool gradients = true;    ///< false: the loss only (evaluation)
  LogitTransform transform{};
  std::int64_t tile_rows = 0;  ///< rows a tile; 0 means loss_head_tile_rows()
  bool trains_weight = true;   ///< false: with gradients, no dw (a frozen head)
};
/// Rows of each of the fewest equal tiles whose logits take at most about 96 MiB, at least 32 and at most 1024.
std::int64_t loss_head_tile_rows(std::int64_t rows, std::int64_t v);

struct LossHeadArguments {
  const void* x;               ///< [rows, d]
  const void* w;               ///< [v, d]
  const std::int32_t* labels;  ///< [rows], each below v; negative: ignored
  const double* scale;         ///< the gradients' factor, usually 1 / valid tokens; null without gradients
  double* loss_sum;            ///< the sum over valid rows, without `scale`
  void* dx;                    ///< [rows, d]; null without gradients
  void* dw;                    ///< [v, d]; null without gradients, or when the weight is not trained
  void* scratch;               ///< scratch_bytes(), aligned to 64
  void* losses = nullptr;      ///< [rows], as CrossEntropy::losses; null: not wanted
};

/// Planned once and run often, like Matmul.
class LossHead {
 public:
  /// `backend` and `libraries` choose who computes the matrix products, as in Matmul.
  LossHead(const LossHeadProblem& problem, int threads, const std::string& backend = "",
           MatmulLibraries* libraries = nullptr);
  std::size_t scratch_bytes() const;
  void run(ThreadPool& pool, const LossHeadArguments& arguments, const VectorTable& table = vector_table());

 private:
  struct Tile {
    std::unique_ptr<Matmul> logits, dx, dw_first, dw_next;
  };
  Tile make_tile(std::int64_t rows, bool first, bool next, MatmulLibraries* libraries) const;
  void run_tile(ThreadPool& pool, Tile& tile, std::int64_t begin, std::int64_t rows, const LossHeadArguments& arguments,
                double* loss, const VectorTable& table);

  LossHeadProblem problem_;
  int threads_;
  std::string backend_;
  std::int64_t tile_rows_;
  Tile whole_, rest_;  // rest_: the last, smaller tile
};

namespace reference {
/// Row by row with plain loops; needs no scratch.
void loss_head(const LossHeadProblem& problem, const LossHeadArguments& arguments);
}  // namespace reference

}  // namespace longhaul::cpu
