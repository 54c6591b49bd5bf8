// Inner loop of rope, for a table in the arithmetic type.
#pragma once
#include "kernels/cpu/rope.h"
#include "kernels/cpu/vector.h"

namespace longhaul::cpu {
namespace {

template <typename T>
LONGHAUL_LOOP void rope_range(const Rope& p, std::int64_t begin, std::int64_t end) {
  using A = accumulate_t<T>;
  const std::int64_t half = p.rotary_dim / 2;
  const std::int64_t x_stride = p.x_stride ? p.x_stride : p.heads * p.head_dim;
  const std::int64_t y_stride = p.y_stride ? p.y_stride : p.heads * p.head_dim;
  const A sign = p.inverse ? A(-1) : A(1);
  constexpr std::int64_t size = sizeof(T);
  const bool streamed = half * size % 64 == 0 && p.head_dim * size % 64 == 0 &&
                        past_caches(p.y, p.n * y_stride * size, y_stride * size, p.x);
  for (std::int64_t token = begin; token < end; ++token) {
    const A* cosine = static_cast<const A*>(p.table) + token * p.rotary_dim;
    const A* sine = cosine + half;
    for (std::int64_t head = 0; head < p.heads; ++head) {
      const T* x = static_cast<const T*>(p.x) + token * x_stride + head * p.head_dim;
      T* y = static_cast<T*>(p.y) + token * y_stride + head * p.head_dim;
      each_vector_to<A>(y, y + half, half, streamed, [&](std::int64_t i, auto part) {
        const Lanes<A> c = load(cosine + i, part), s = load(sine + i, part) * sign;
        const Lanes<A> first = load(x + i, part), second = load(x + half + i, part);
        return Two<A>{first * c - second * s, second * c + first * s};
      });
      if (x != y)
        for (std::int64_t i = p.rotary_dim; i < p.head_dim; ++i) y[i] = x[i];
    }
  }
  settle(streamed);
}

}  // namespace
}  // namespace longhaul::cpu
