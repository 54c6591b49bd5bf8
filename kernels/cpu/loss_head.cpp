#include "kernels/cpu/loss_head.h"

#include <vector>

#include "kernels/cpu/support.h"

namespace longhaul::cpu {

std::int64_t loss_head_tile_rows(std::int64_t rows, std::int64_t v) {
  const std::int64_t fitting = (std::int64_t{96} << 20) / (4 * std::max<std::int64_t>(1, v)) / 32 * 32;
  const std::int64_t most = std::clamp<std::int64_t>(fitting, 32, 1024);
  // Equal tiles: a last one of a few rows would read the whole weight for little work.
  const std::int64_t tiles = std::max<std::int64_t>(1, (rows + most - 1) / most);
  return std::clamp<std::int64_t>(((rows + tiles - 1) / tiles + 31) / 32 * 32, 1, std::max<std::int64_t>(1, rows));
}

namespace {

/// Elements from row to row of a tile's logits: rows start on cache lines (a vocabulary of odd size would cut every
/// vector in two), and never a multiple of 4096 bytes apart, which would put a column into one set of the cache.
std::int64_t row_stride(std::int64_t v) {
  const std::int64_t whole = (v + 31) / 32 * 32;
  return whole % 1024 == 0 ? whole + 32 : whole;
}

DType logits_type(const LossHeadProblem& p) {
  return p.type == DType::float64 ? DType::float64 : DType::float32;
}
std::size_t logits_bytes(const LossHeadProblem& p, std::int64_t rows) {
  return round_to_line(static_cast<std::size_t>(rows * row_stride(p.v)) * size_of(logits_type(p)));
}
void* losses_from(void* losses, const LossHeadProblem& p, std::int64_t row) {
  return losses ? static_cast<char*>(losses) + static_cast<std::size_t>(row) * size_of(logits_type(p)) : nullptr;
}
/// The bfloat16 copy of dlogits, which the gradients' products read.
std::size_t copy_bytes(const LossHeadProblem& p, std::int64_t rows) {
  if (p.type != DType::bfloat16 || !p.gradients) return 0;
  return round_to_line(static_cast<std::size_t>(rows * row_stride(p.v)) * size_of(DType::bfloat16));
}

}  // namespace

LossHead::LossHead(const LossHeadProblem& problem, int threads, const std::string& backend, MatmulLibraries* libraries)
    : problem_(problem), threads_(threads), backend_(backend) {
  const LossHeadProblem& p = problem;
  LONGHAUL_CHECK(p.dweight_type == logits_type(p), "loss head of {}: dweight is {}", name_of(p.type),
                 name_of(p.dweight_type));
  tile_rows_ = std::min(p.rows, p.tile_rows > 0 ? p.tile_rows : loss_head_tile_rows(p.rows, p.v));
  if (p.rows == 0) return;
  const std::int64_t tiles = p.rows / tile_rows_, rest = p.rows % tile_rows_;
  whole_ = make_tile(tile_rows_, true, tiles > 1, libraries);
  if (rest > 0) rest_ = make_tile(rest, false, true, libraries);
}

LossHead::Tile LossHead::make_tile(std::int64_t rows, bool first, bool next, MatmulLibraries* libraries) const {
  const LossHeadProblem& p = problem_;
  const DType product = p.type;  // of dlogits as the gradients' products read it
  const std::int64_t stride = row_stride(p.v);
  Tile tile;
  tile.logits = std::make_unique<Matmul>(MatmulProblem{.transpose_b = true,
                                                       .m = rows,
                                                       .n = p.v,
                                                       .k = p.d,
                                                       .lda = p.d,
                                                       .ldb = p.d,
                                                       .ldc = stride,
                                                       .a = p.type,
                                                       .b = p.type,
                                                       .c = logits_type(p)},
                                         threads_, backend_, libraries);
  if (!p.gradients) return tile;
  tile.dx = std::make_unique<Matmul>(
      MatmulProblem{
          .m = rows, .n = p.d, .k = p.v, .lda = stride, .ldb = p.d, .ldc = p.d, .a = product, .b = p.type, .c = p.type},
      threads_, backend_, libraries);
  if (!p.trains_weight) return tile;
  MatmulProblem dw{.transpose_a = true,
                   .m = p.v,
                   .n = p.d,
                   .k = rows,
                   .lda = stride,
                   .ldb = p.d,
                   .ldc = p.d,
                   .a = product,
                   .b = p.type,
                   .c = p.dweight_type};
  dw.accumulate = p.accumulate;
  if (first) tile.dw_first = std::make_unique<Matmul>(dw, threads_, backend_, libraries);
  dw.accumulate = true;
  if (next) tile.dw_next = std::make_unique<Matmul>(dw, threads_, backend_, libraries);
  return tile;
}

std::size_t LossHead::scratch_bytes() const {
  std::size_t product = 0;
  for (const Tile* tile : {&whole_, &rest_})
    for (const auto* matmul : {&tile->logits, &tile->dx, &tile->dw_first, &tile->dw_next})
      if (*matmul) product = std::max(product, (*matmul)->scratch_bytes());
  return logits_bytes(problem_, tile_rows_) + copy_bytes(problem_, tile_rows_) +
         cross_entropy_scratch_bytes(logits_type(problem_), tile_rows_, problem_.v, threads_) + product;
}

void LossHead::run(ThreadPool& pool, const LossHeadArguments& arguments, const VectorTable& table) {
  const LossHeadProblem& p = problem_;
  *arguments.loss_sum = 0;
  if (p.rows == 0 && p.gradients && p.trains_weight && !p.accumulate)
    std::fill_n(static_cast<char*>(arguments.dw), static_cast<std::size_t>(p.v * p.d) * size_of(p.dweight_type), 0);
  for (std::int64_t begin = 0; begin < p.rows; begin += tile_rows_) {
    const std::int64_t rows = std::min(tile_rows_, p.rows - begin);
    double loss = 0;
    run_tile(pool, rows == tile_rows_ ? whole_ : rest_, begin, rows, arguments, &loss, table);
    *arguments.loss_sum += loss;
  }
}

void LossHead::run_tile(ThreadPool& pool, Tile& tile, std::int64_t begin, std::int64_t rows,
                        const LossHeadArguments& arguments, double* loss, const VectorTable& table) {
  const LossHeadProblem& p = problem_;
  char* logits = static_cast<char*>(arguments.scratch);
  char* copy = logits + logits_bytes(p, tile_rows_);
  char* losses = copy + copy_bytes(p, tile_rows_);
  char* product_scratch = losses + cross_entropy_scratch_bytes(logits_type(p), tile_rows_, p.v, threads_);
  const std::size_t row_bytes = static_cast<std::size_t>(p.d) * size_of(p.type);
  const char* x = static_cast<const char*>(arguments.x) + begin * row_bytes;
  tile.logits->run(pool, x, arguments.w, nullptr, logits, product_scratch);
  char* dlogits = !p.gradients ? nullptr : p.type == DType::bfloat16 ? copy : logits;
  cross_entropy(pool,
                {.type = logits_type(p),
                 .logits = logits,
                 .labels = arguments.labels + begin,
                 .rows = rows,
                 .v = p.v,
                 .transform = p.transform,
                 .loss_sum = loss,
                 .losses = losses_from(arguments.losses, p, begin),
                 .gradient_type = p.type,
                 .dlogits = dlogits,
                 .scale = arguments.scale,
                 .stride = row_stride(p.v),
                 .scratch = losses},
                table);
  if (!p.gradients) return;
  tile.dx->run(pool, dlogits, arguments.w, nullptr, static_cast<char*>(arguments.dx) + begin * row_bytes,
               product_scratch);
  if (!p.trains_weight) return;
  Matmul& dw = begin == 0 ? *tile.dw_first : *tile.dw_next;
  dw.run(pool, dlogits, x, nullptr, arguments.dw, product_scratch);
}

namespace reference {

void loss_head(const LossHeadProblem& p, const LossHeadArguments& arguments) {
  dispatch_floating(p.type, [&](auto t) {
    using T = decltype(t);
    using A = accumulate_t<T>;
    const T *x = static_cast<const T*>(arguments.x), *w = static_cast<const T*>(arguments.w);
    A* dw = static_cast<A*>(arguments.dw);
    std::vector<A> logits(static_cast<std::size_t>(p.v)), dx(static_cast<std::size_t>(p.d));
    const bool weight = p.gradients && p.trains_weight;
    if (weight && !p.accumulate) std::fill_n(dw, p.v * p.d, A(0));
    double total = 0;
    for (std::int64_t row = 0; row < p.rows; ++row) {
      const T* from = x + row * p.d;
      for (std::int64_t j = 0; j < p.v; ++j) {
        A sum = 0;
        for (std::int64_t i = 0; i < p.d; ++i) sum += read(from[i]) * read(w[j * p.d + i]);
        logits[static_cast<std::size_t>(j)] = sum;
      }
      double loss = 0;
      const DType type = std::is_same_v<A, double> ? DType::float64 : DType::float32;
      cross_entropy({.type = type,
                     .logits = logits.data(),
                     .labels = arguments.labels + row,
                     .rows = 1,
                     .v = p.v,
                     .transform = p.transform,
                     .loss_sum = &loss,
                     .losses = losses_from(arguments.losses, p, row)});
      total += loss;
      if (!p.gradients) continue;
      std::vector<A> dlogits(logits.size());
      cross_entropy({.type = type,
                     .logits = logits.data(),
                     .labels = arguments.labels + row,
                     .rows = 1,
                     .v = p.v,
                     .transform = p.transform,
                     .gradient_type = type,
                     .dlogits = dlogits.data(),
                     .scale = arguments.scale});
      std::fill(dx.begin(), dx.end(), A(0));
      for (std::int64_t j = 0; j < p.v; ++j) {
        const A slope = dlogits[static_cast<std::size_t>(j)];
        for (std::int64_t i = 0; i < p.d; ++i) {
          dx[static_cast<std::size_t>(i)] += slope * read(w[j * p.d + i]);
          if (weight) dw[j * p.d + i] += slope * read(from[i]);
        }
      }
      for (std::int64_t i = 0; i < p.d; ++i)
        static_cast<T*>(arguments.dx)[row * p.d + i] = convert<T>(dx[static_cast<std::size_t>(i)]);
    }
    *arguments.loss_sum = total;
  });
}

}  // namespace reference
}  // namespace longhaul::cpu
