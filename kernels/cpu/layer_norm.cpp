#include "kernels/cpu/layer_norm.h"

#include <cmath>
#include <vector>

#include "kernels/cpu/support.h"

namespace longhaul::cpu {

void layer_norm(ThreadPool& pool, const LayerNorm& p, const VectorTable& table) {
  parallel_for(pool, p.rows, rows_per_task(p.d),
               [&](std::int64_t begin, std::int64_t end) { table.layer_norm[p.type](p, begin, end); });
}

std::size_t layer_norm_gradient_scratch_bytes(DType type, std::int64_t rows, std::int64_t d) {
  return static_cast<std::size_t>(sum_parts(rows, d)) * 2 * partial_bytes(type, d);
}

void layer_norm_gradient(ThreadPool& pool, const LayerNormGradient& p, const VectorTable& table) {
  // A part's sums are those of the weight, padded to a cache line, then those of the bias: one row of 2 * padded.
  const std::int64_t parts = sum_parts(p.rows, p.d);
  const std::size_t half = partial_bytes(p.type, p.d);
  char* scratch = static_cast<char*>(p.scratch);
  parallel_parts(pool, p.rows, parts, [&](std::int64_t part, std::int64_t begin, std::int64_t end) {
    table.layer_norm_gradient[p.type](p, begin, end, scratch + part * 2 * half);
  });
  dispatch_floating(p.type, [&](auto t) {
    using A = accumulate_t<decltype(t)>;
    dispatch_floating(p.dweight_type, [&](auto o) {
      using O = decltype(o);
      const std::int64_t stride = static_cast<std::int64_t>(half / sizeof(A));
      parallel_for(pool, p.d, 256, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          A weight = 0, bias = 0;
          for (std::int64_t part = 0; part < parts; ++part) {
            const A* sums = reinterpret_cast<const A*>(scratch) + part * 2 * stride;
            weight += sums[i];
            bias += sums[stride + i];
          }
          static_cast<O*>(p.dweight)[i] = convert<O>(weight);
          static_cast<O*>(p.dbias)[i] = convert<O>(bias);
        }
      });
    });
  });
}

namespace reference {
namespace {

template <typename A>
struct RowMoments {
  A mean, inverse;
};
template <typename T>
RowMoments<accumulate_t<T>> row_moments(const T* x, std::int64_t d, double epsilon) {
  using A = accumulate_t<T>;
  A mean = 0, variance = 0;
  for (std::int64_t i = 0; i < d; ++i) mean += read(x[i]);
  mean /= static_cast<A>(d);
  for (std::int64_t i = 0; i < d; ++i) variance += (read(x[i]) - mean) * (read(x[i]) - mean);
  return {mean, 1 / std::sqrt(variance / static_cast<A>(d) + static_cast<A>(epsilon))};
}

template <typename T, typename W>
void layer_norm(const LayerNorm& p) {
  using A = accumulate_t<T>;
  const T *x = static_cast<const T*>(p.x), *residual = static_cast<const T*>(p.residual);
  const W *w = static_cast<const W*>(p.weight), *bias = static_cast<const W*>(p.bias);
  for (std::int64_t row = 0; row < p.rows; ++row) {
    const T* s = x + row * p.d;
    if (residual) {
      T* sum = static_cast<T*>(p.sum) + row * p.d;
      for (std::int64_t i = 0; i < p.d; ++i) sum[i] = convert<T>(read(s[i]) + read(residual[row * p.d + i]));
      s = sum;
    }
    const auto of = row_moments(s, p.d, p.epsilon);
    for (std::int64_t i = 0; i < p.d; ++i)
      static_cast<T*>(p.y)[row * p.d + i] =
          convert<T>((read(s[i]) - of.mean) * of.inverse * convert<A>(w[i]) + convert<A>(bias[i]));
  }
}

template <typename T, typename W, typename O>
void layer_norm_gradient(const LayerNormGradient& p) {
  using A = accumulate_t<T>;
  const W* w = static_cast<const W*>(p.weight);
  std::vector<A> dweight(static_cast<std::size_t>(p.d)), dbias(static_cast<std::size_t>(p.d));
  for (std::int64_t row = 0; row < p.rows; ++row) {
    const T *x = static_cast<const T*>(p.x) + row * p.d, *dy = static_cast<const T*>(p.dy) + row * p.d;
    const T* residual = static_cast<const T*>(p.residual_gradient);
    const auto of = row_moments(x, p.d, p.epsilon);
    A mean_g = 0, mean_gx = 0;
    for (std::int64_t i = 0; i < p.d; ++i) {
      const A g = read(dy[i]) * convert<A>(w[i]);
      mean_g += g;
      mean_gx += g * (read(x[i]) - of.mean) * of.inverse;
    }
    mean_g /= static_cast<A>(p.d);
    mean_gx /= static_cast<A>(p.d);
    for (std::int64_t i = 0; i < p.d; ++i) {
      const A xhat = (read(x[i]) - of.mean) * of.inverse;
      dweight[static_cast<std::size_t>(i)] += read(dy[i]) * xhat;
      dbias[static_cast<std::size_t>(i)] += read(dy[i]);
      A gradient = of.inverse * (read(dy[i]) * convert<A>(w[i]) - mean_g - xhat * mean_gx);
      if (residual) gradient += read(residual[row * p.d + i]);
      static_cast<T*>(p.dx)[row * p.d + i] = convert<T>(gradient);
    }
  }
  for (std::int64_t i = 0; i < p.d; ++i) {
    static_cast<O*>(p.dweight)[i] = convert<O>(dweight[static_cast<std::size_t>(i)]);
    static_cast<O*>(p.dbias)[i] = convert<O>(dbias[static_cast<std::size_t>(i)]);
  }
}

}  // namespace

void layer_norm(const LayerNorm& p) {
  dispatch_with_parameter(p.type, p.weight_type, [&](auto t, auto w) { layer_norm<decltype(t), decltype(w)>(p); });
}

void layer_norm_gradient(const LayerNormGradient& p) {
  dispatch_with_parameter(p.type, p.weight_type, [&](auto t, auto w) {
    dispatch_floating(p.dweight_type, [&](auto o) { layer_norm_gradient<decltype(t), decltype(w), decltype(o)>(p); });
  });
}

}  // namespace reference
}  // namespace longhaul::cpu
