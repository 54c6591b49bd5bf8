#include "kernels/cpu/rms_norm.h"

#include <cmath>
#include <vector>

#include "kernels/cpu/support.h"

namespace longhaul::cpu {

void rms_norm(ThreadPool& pool, const RmsNorm& p, const VectorTable& table) {
  parallel_for(pool, p.rows, rows_per_task(p.d),
               [&](std::int64_t begin, std::int64_t end) { table.rms_norm[p.type](p, begin, end); });
}

std::size_t rms_norm_gradient_scratch_bytes(DType type, std::int64_t rows, std::int64_t d) {
  return static_cast<std::size_t>(sum_parts(rows, d)) * partial_bytes(type, d);
}

void rms_norm_gradient(ThreadPool& pool, const RmsNormGradient& p, const VectorTable& table) {
  const std::int64_t parts = sum_parts(p.rows, p.d);
  parallel_parts(pool, p.rows, parts, [&](std::int64_t part, std::int64_t begin, std::int64_t end) {
    table.rms_norm_gradient[p.type](p, begin, end, static_cast<char*>(p.scratch) + part * partial_bytes(p.type, p.d));
  });
  add_partials(pool, p.type, p.scratch, parts, p.d, p.dweight_type, p.dweight);
}

namespace reference {
namespace {

template <typename T, typename W>
void rms_norm(const RmsNorm& p) {
  using A = accumulate_t<T>;
  const T *x = static_cast<const T*>(p.x), *residual = static_cast<const T*>(p.residual);
  const W* w = static_cast<const W*>(p.weight);
  const A offset = static_cast<A>(p.weight_offset);
  for (std::int64_t row = 0; row < p.rows; ++row) {
    const T* s = x + row * p.d;
    if (residual) {
      T* sum = static_cast<T*>(p.sum) + row * p.d;
      for (std::int64_t i = 0; i < p.d; ++i) sum[i] = convert<T>(read(s[i]) + read(residual[row * p.d + i]));
      s = sum;
    }
    A squares = 0;
    for (std::int64_t i = 0; i < p.d; ++i) squares += read(s[i]) * read(s[i]);
    const A inverse = 1 / std::sqrt(squares / static_cast<A>(p.d) + static_cast<A>(p.epsilon));
    for (std::int64_t i = 0; i < p.d; ++i)
      static_cast<T*>(p.y)[row * p.d + i] = convert<T>(read(s[i]) * inverse * (convert<A>(w[i]) + offset));
  }
}

template <typename T, typename W, typename O>
void rms_norm_gradient(const RmsNormGradient& p) {
  using A = accumulate_t<T>;
  const W* w = static_cast<const W*>(p.weight);
  const A offset = static_cast<A>(p.weight_offset);
  std::vector<A> dweight(static_cast<std::size_t>(p.d));
  for (std::int64_t row = 0; row < p.rows; ++row) {
    const T *x = static_cast<const T*>(p.x) + row * p.d, *dy = static_cast<const T*>(p.dy) + row * p.d;
    const T* residual = static_cast<const T*>(p.residual_gradient);
    A squares = 0, mean = 0;
    for (std::int64_t i = 0; i < p.d; ++i) squares += read(x[i]) * read(x[i]);
    const A inverse = 1 / std::sqrt(squares / static_cast<A>(p.d) + static_cast<A>(p.epsilon));
    for (std::int64_t i = 0; i < p.d; ++i) mean += read(x[i]) * inverse * read(dy[i]) * (convert<A>(w[i]) + offset);
    mean /= static_cast<A>(p.d);
    for (std::int64_t i = 0; i < p.d; ++i) {
      const A xhat = read(x[i]) * inverse;
      dweight[static_cast<std::size_t>(i)] += read(dy[i]) * xhat;
      A gradient = inverse * (read(dy[i]) * (convert<A>(w[i]) + offset) - xhat * mean);
      if (residual) gradient += read(residual[row * p.d + i]);
      static_cast<T*>(p.dx)[row * p.d + i] = convert<T>(gradient);
    }
  }
  for (std::int64_t i = 0; i < p.d; ++i)
    static_cast<O*>(p.dweight)[i] = convert<O>(dweight[static_cast<std::size_t>(i)]);
}

}  // namespace

void rms_norm(const RmsNorm& p) {
  dispatch_with_parameter(p.type, p.weight_type, [&](auto t, auto w) { rms_norm<decltype(t), decltype(w)>(p); });
}

void rms_norm_gradient(const RmsNormGradient& p) {
  dispatch_with_parameter(p.type, p.weight_type, [&](auto t, auto w) {
    dispatch_floating(p.dweight_type, [&](auto o) { rms_norm_gradient<decltype(t), decltype(w), decltype(o)>(p); });
  });
}

}  // namespace reference
}  // namespace longhaul::cpu
