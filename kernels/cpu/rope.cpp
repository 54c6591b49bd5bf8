#include "kernels/cpu/rope.h"

#include <cmath>

#include "kernels/cpu/support.h"

namespace longhaul::cpu {
namespace {

template <typename R>
void table_rows(const RopeTable& p, std::int64_t begin, std::int64_t end) {
  const std::int64_t half = p.rotary_dim / 2;
  for (std::int64_t i = begin; i < end; ++i) {
    R* row = static_cast<R*>(p.table) + i * p.rotary_dim;
    double scale = p.scale;
    if (p.growth != 0) scale *= 1 + p.growth * std::log1p(static_cast<double>(p.position[i] / p.growth_length));
    for (std::int64_t j = 0; j < half; ++j) {
      const double angle = p.position[i] * p.inverse_frequency[j];
      row[j] = static_cast<R>(scale * std::cos(angle));
      row[half + j] = static_cast<R>(scale * std::sin(angle));
    }
  }
}

template <typename T, typename R>
void rotate_rows(const Rope& p, std::int64_t begin, std::int64_t end) {
  using A = accumulate_t<T>;
  const std::int64_t half = p.rotary_dim / 2, width = p.heads * p.head_dim;
  for (std::int64_t token = begin; token < end; ++token) {
    const R* row = static_cast<const R*>(p.table) + token * p.rotary_dim;
    for (std::int64_t head = 0; head < p.heads; ++head) {
      const T* x = static_cast<const T*>(p.x) + token * (p.x_stride ? p.x_stride : width) + head * p.head_dim;
      T* y = static_cast<T*>(p.y) + token * (p.y_stride ? p.y_stride : width) + head * p.head_dim;
      for (std::int64_t i = 0; i < half; ++i) {
        const A cosine = static_cast<A>(row[i]), sine = static_cast<A>(p.inverse ? -row[half + i] : row[half + i]);
        const A first = read(x[i]), second = read(x[half + i]);
        y[i] = convert<T>(first * cosine - second * sine);
        y[half + i] = convert<T>(second * cosine + first * sine);
      }
      for (std::int64_t i = p.rotary_dim; i < p.head_dim; ++i) y[i] = x[i];
    }
  }
}

void rotate(const Rope& p, std::int64_t begin, std::int64_t end) {
  dispatch_floating(p.type, [&](auto t) {
    if (p.table_type == DType::float64)
      rotate_rows<decltype(t), double>(p, begin, end);
    else
      rotate_rows<decltype(t), float>(p, begin, end);
  });
}

}  // namespace

void rope_table(ThreadPool& pool, const RopeTable& p) {
  parallel_for(pool, p.n, std::max<std::int64_t>(1, 1024 / p.rotary_dim), [&](std::int64_t begin, std::int64_t end) {
    p.table_type == DType::float64 ? table_rows<double>(p, begin, end) : table_rows<float>(p, begin, end);
  });
}

void rope(ThreadPool& pool, const Rope& p, const VectorTable& table) {
  const DType arithmetic = p.type == DType::float64 ? DType::float64 : DType::float32;
  const bool vector = p.table_type == arithmetic;
  parallel_for(pool, p.n, rows_per_task(p.heads * p.head_dim), [&](std::int64_t begin, std::int64_t end) {
    vector ? table.rope[p.type](p, begin, end) : rotate(p, begin, end);
  });
}

namespace reference {

void rope_table(const RopeTable& p) {
  p.table_type == DType::float64 ? table_rows<double>(p, 0, p.n) : table_rows<float>(p, 0, p.n);
}

void rope(const Rope& p) {
  rotate(p, 0, p.n);
}

}  // namespace reference
}  // namespace longhaul::cpu
