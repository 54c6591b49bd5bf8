// Inner loops of rms_norm and layer_norm. A row is swept two or three times, but only the first sweep comes from
// memory. Sweeping several rows together, so that weights are read once for them, was slower: its streams are shorter
// than what the processor needs to run ahead of them.
#pragma once
#include "kernels/cpu/layer_norm.h"
#include "kernels/cpu/rms_norm.h"
#include "kernels/cpu/vector.h"

namespace longhaul::cpu {
namespace {

template <typename A>
LONGHAUL_INLINE A inverse_root(A value) {
  if constexpr (sizeof(A) == 8)
    return 1 / __builtin_sqrt(value);
  else
    return 1 / __builtin_sqrtf(value);
}

/// The row that is normalised, x itself or the stored sum of x and the residual, which this writes; calls
/// sweep(value, slot) for its elements on the way.
template <typename T, typename Problem, typename Sweep>
LONGHAUL_INLINE const T* first_sweep(const Problem& p, std::int64_t row, Sweep sweep) {
  using A = accumulate_t<T>;
  const T* x = static_cast<const T*>(p.x) + row * p.d;
  if (!p.residual) {
    each_vector_of_4<A>(p.d, [&](std::int64_t i, auto part, int slot) { sweep(load(x + i, part), slot); });
    return x;
  }
  const T* residual = static_cast<const T*>(p.residual) + row * p.d;
  T* sum = static_cast<T*>(p.sum) + row * p.d;
  each_vector_of_4<A>(p.d, [&](std::int64_t i, auto part, int slot) {
    store(sum + i, load(x + i, part) + load(residual + i, part), part);
    sweep(load(sum + i, part), slot);  // as it was stored
  });
  return sum;
}
/// Asks for column i of the next row: the last sweep runs in the cache, and memory works meanwhile. Harmless after the
/// last row.
template <typename T, typename Problem>
LONGHAUL_INLINE void fetch_next(const Problem& p, std::int64_t row, std::int64_t i) {
  const std::int64_t at = (row + 1 < p.rows ? row + 1 : row) * p.d + i;
  __builtin_prefetch(static_cast<const T*>(p.x) + at);
  if (p.residual) __builtin_prefetch(static_cast<const T*>(p.residual) + at);
}

template <typename T, typename W>
LONGHAUL_LOOP void rms_norm_rows(const RmsNorm& p, std::int64_t begin, std::int64_t end) {
  using A = accumulate_t<T>;
  const W* w = static_cast<const W*>(p.weight);
  for (std::int64_t row = begin; row < end; ++row) {
    T* y = static_cast<T*>(p.y) + row * p.d;
    Lanes<A> squares[4] = {};
    const T* s = first_sweep<T>(p, row, [&](Lanes<A> value, int slot) { squares[slot] += value * value; });
    const A inverse = inverse_root<A>(sum_lanes_of_4<A>(squares) / static_cast<A>(p.d) + static_cast<A>(p.epsilon));
    each_vector<A>(p.d, [&](std::int64_t i, auto part) {
      fetch_next<T>(p, row, i);
      store(y + i, load(s + i, part) * inverse * load_as<A>(w + i, part), part);
    });
  }
}

template <typename T, typename W>
LONGHAUL_LOOP void rms_norm_gradient_rows(const RmsNormGradient& p, std::int64_t begin, std::int64_t end, void* out) {
  using A = accumulate_t<T>;
  const W* w = static_cast<const W*>(p.weight);
  A* dweight = static_cast<A*>(out);
  for (std::int64_t i = 0; i < p.d; ++i) dweight[i] = 0;
  for (std::int64_t row = begin; row < end; ++row) {
    const T* x = static_cast<const T*>(p.x) + row * p.d;
    const T* dy = static_cast<const T*>(p.dy) + row * p.d;
    const T* residual = p.residual_gradient ? static_cast<const T*>(p.residual_gradient) + row * p.d : nullptr;
    T* dx = static_cast<T*>(p.dx) + row * p.d;
    Lanes<A> squares[4] = {}, products[4] = {};
    each_vector_of_4<A>(p.d, [&](std::int64_t i, auto part, int slot) {
      const Lanes<A> value = load(x + i, part);
      squares[slot] += value * value;
      products[slot] += value * (load(dy + i, part) * load_as<A>(w + i, part));
    });
    const A inverse = inverse_root<A>(sum_lanes_of_4<A>(squares) / static_cast<A>(p.d) + static_cast<A>(p.epsilon));
    const A mean = sum_lanes_of_4<A>(products) * inverse / static_cast<A>(p.d);  // of xhat * dy * w
    const auto sweep = [&](auto with_residual) __attribute__((always_inline)) {
      each_vector<A>(p.d, [&](std::int64_t i, auto part) {
        const Lanes<A> xhat = load(x + i, part) * inverse, upper = load(dy + i, part);
        Lanes<A> gradient = (upper * load_as<A>(w + i, part) - xhat * mean) * inverse;
        if constexpr (with_residual.value) gradient += load(residual + i, part);
        store(dweight + i, load(dweight + i, part) + upper * xhat, part);
        store(dx + i, gradient, part);
      });
    };
    if (residual)
      sweep(std::true_type{});
    else
      sweep(std::false_type{});
  }
}

template <typename A>
struct Moments {
  A mean, inverse;  ///< inverse: 1 / sqrt(variance + epsilon)
};
/// From the sum of a row: the squares of what remains do not cancel.
template <typename T>
LONGHAUL_INLINE Moments<accumulate_t<T>> moments(const T* s, const Lanes<accumulate_t<T>> (&sums)[4], std::int64_t d,
                                                 double epsilon) {
  using A = accumulate_t<T>;
  const A mean = sum_lanes_of_4<A>(sums) / static_cast<A>(d);
  Lanes<A> squares[4] = {};
  each_vector_of_4<A>(d, [&](std::int64_t i, auto part, int slot) {
    const Lanes<A> centred = keep<A>(load(s + i, part) - mean, part, 0);
    squares[slot] += centred * centred;
  });
  return {mean, inverse_root<A>(sum_lanes_of_4<A>(squares) / static_cast<A>(d) + static_cast<A>(epsilon))};
}

template <typename T, typename W>
LONGHAUL_LOOP void layer_norm_rows(const LayerNorm& p, std::int64_t begin, std::int64_t end) {
  using A = accumulate_t<T>;
  const W* w = static_cast<const W*>(p.weight);
  const W* bias = static_cast<const W*>(p.bias);
  for (std::int64_t row = begin; row < end; ++row) {
    T* y = static_cast<T*>(p.y) + row * p.d;
    Lanes<A> sums[4] = {};
    const T* s = first_sweep<T>(p, row, [&](Lanes<A> value, int slot) { sums[slot] += value; });
    const Moments<A> of = moments(s, sums, p.d, p.epsilon);
    each_vector<A>(p.d, [&](std::int64_t i, auto part) {
      fetch_next<T>(p, row, i);
      store(y + i, (load(s + i, part) - of.mean) * of.inverse * load_as<A>(w + i, part) + load_as<A>(bias + i, part),
            part);
    });
  }
}

template <typename T, typename W>
LONGHAUL_LOOP void layer_norm_gradient_rows(const LayerNormGradient& p, std::int64_t begin, std::int64_t end,
                                            void* out) {
  using A = accumulate_t<T>;
  const W* w = static_cast<const W*>(p.weight);
  constexpr std::int64_t line = 64 / sizeof(A);
  A* dweight = static_cast<A*>(out);
  A* dbias = dweight + (p.d + line - 1) / line * line;
  for (std::int64_t i = 0; i < p.d; ++i) dweight[i] = dbias[i] = 0;
  for (std::int64_t row = begin; row < end; ++row) {
    const T* x = static_cast<const T*>(p.x) + row * p.d;
    const T* dy = static_cast<const T*>(p.dy) + row * p.d;
    const T* residual = p.residual_gradient ? static_cast<const T*>(p.residual_gradient) + row * p.d : nullptr;
    T* dx = static_cast<T*>(p.dx) + row * p.d;
    Lanes<A> of_x[4] = {};
    each_vector_of_4<A>(p.d, [&](std::int64_t i, auto part, int slot) { of_x[slot] += load(x + i, part); });
    const Moments<A> of = moments(x, of_x, p.d, p.epsilon);
    Lanes<A> sums[4] = {}, products[4] = {};
    each_vector_of_4<A>(p.d, [&](std::int64_t i, auto part, int slot) {
      const Lanes<A> g = load(dy + i, part) * load_as<A>(w + i, part);
      sums[slot] += g;
      products[slot] += g * (load(x + i, part) - of.mean);
    });
    const A mean_g = sum_lanes_of_4<A>(sums) / static_cast<A>(p.d);
    const A mean_gx = sum_lanes_of_4<A>(products) * of.inverse / static_cast<A>(p.d);
    const auto sweep = [&](auto with_residual) __attribute__((always_inline)) {
      each_vector<A>(p.d, [&](std::int64_t i, auto part) {
        const Lanes<A> xhat = (load(x + i, part) - of.mean) * of.inverse, upper = load(dy + i, part);
        Lanes<A> gradient = (upper * load_as<A>(w + i, part) - mean_g - xhat * mean_gx) * of.inverse;
        if constexpr (with_residual.value) gradient += load(residual + i, part);
        store(dweight + i, load(dweight + i, part) + upper * xhat, part);
        store(dbias + i, load(dbias + i, part) + upper, part);
        store(dx + i, gradient, part);
      });
    };
    if (residual)
      sweep(std::true_type{});
    else
      sweep(std::false_type{});
  }
}

// The weight's type is the activations' or float32.
template <typename T>
LONGHAUL_LOOP void rms_norm_range(const RmsNorm& p, std::int64_t begin, std::int64_t end) {
  p.weight_type == p.type ? rms_norm_rows<T, T>(p, begin, end) : rms_norm_rows<T, float>(p, begin, end);
}
template <typename T>
LONGHAUL_LOOP void rms_norm_gradient_range(const RmsNormGradient& p, std::int64_t begin, std::int64_t end, void* out) {
  p.weight_type == p.type ? rms_norm_gradient_rows<T, T>(p, begin, end, out)
                          : rms_norm_gradient_rows<T, float>(p, begin, end, out);
}
template <typename T>
LONGHAUL_LOOP void layer_norm_range(const LayerNorm& p, std::int64_t begin, std::int64_t end) {
  p.weight_type == p.type ? layer_norm_rows<T, T>(p, begin, end) : layer_norm_rows<T, float>(p, begin, end);
}
template <typename T>
LONGHAUL_LOOP void layer_norm_gradient_range(const LayerNormGradient& p, std::int64_t begin, std::int64_t end,
                                             void* out) {
  p.weight_type == p.type ? layer_norm_gradient_rows<T, T>(p, begin, end, out)
                          : layer_norm_gradient_rows<T, float>(p, begin, end, out);
}

}  // namespace
}  // namespace longhaul::cpu
