// Inner loops of rms_norm and layer_norm. A row is swept two or three times, but only the first sweep comes from
// memory. Asking for the next row ahead of need (prefetch) costs more than it gains, and so does reading a block of
// rows before the first of them is written; and sweeping several rows together, so that weights are read once for them,
// leaves each stream shorter than what the processor needs to run ahead of it.
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

/// What is known of a row after its first sweep.
template <typename A>
struct Statistics {
  A mean, inverse;    ///< inverse: 1 / sqrt(variance + epsilon), or of the mean square
  A mean_g, mean_gx;  ///< of the gradient by the normalised row, and of its product with that row
};

/// of = sums(row), then write(row, of), for each row.
template <typename Sums, typename Write>
LONGHAUL_INLINE void each_row(std::int64_t begin, std::int64_t end, Sums sums, Write write) {
  for (std::int64_t row = begin; row < end; ++row) write(row, sums(row));
}

/// A row that is normalised: x, or the sum of x and the residual as it is stored. `streamed`: y is stored past the
/// caches, and so is the sum, in the last sweep, which adds once more instead of reading it back. (Not a bfloat16 sum:
/// what converting its addends again costs is more than the traffic.)
template <typename T, typename Problem>
class Row {
 public:
  using A = accumulate_t<T>;
  LONGHAUL_INLINE Row(const Problem& p, std::int64_t row, bool streamed)
      : x_(static_cast<const T*>(p.x) + row * p.d),
        residual_(p.residual ? static_cast<const T*>(p.residual) + row * p.d : nullptr),
        sum_(p.residual ? static_cast<T*>(p.sum) + row * p.d : nullptr),
        d_(p.d),
        streamed_(streamed),
        adds_again_(streamed && residual_ && !std::is_same_v<T, bfloat16>) {}
  /// The mean of the first elements, at most a vector of them.
  LONGHAUL_INLINE A front() const {
    if (d_ >= lanes_in<A>) return sum_lanes<A>(value(0, Full{})) / static_cast<A>(lanes_in<A>);
    return sum_lanes<A>(value(0, Tail{d_})) / static_cast<A>(d_);
  }
  /// Reads the row from memory: sweep(value, part, slot) for its elements.
  template <typename Sweep>
  LONGHAUL_INLINE void first(Sweep sweep) const {
    if (!residual_ || adds_again_)
      each_vector_of_4<A>(d_, [&](std::int64_t i, auto part, int slot) { sweep(value(i, part), part, slot); });
    else
      each_vector_of_4<A>(d_, [&](std::int64_t i, auto part, int slot) {
        const Lanes<A> sum = value(i, part);
        store(sum_ + i, sum, part);
        sweep(sum, part, slot);
      });
  }
  /// The last time: y[i] = sweep(i, value, part).
  template <typename Sweep>
  LONGHAUL_INLINE void last(T* y, Sweep sweep) const {
    if (adds_again_) {
      each_vector_to<A>(sum_, y, d_, true, [&](std::int64_t i, auto part) {
        const Lanes<A> sum = value(i, part);
        return Two<A>{sum, sweep(i, sum, part)};
      });
      return;
    }
    const T* s = residual_ ? sum_ : x_;
    each_vector_to<A>(y, d_, streamed_, [&](std::int64_t i, auto part) { return sweep(i, load(s + i, part), part); });
  }

 private:
  template <typename Part>
  LONGHAUL_INLINE Lanes<A> value(std::int64_t i, Part part) const {
    if (!residual_) return load(x_ + i, part);
    return as_stored<T>(load(x_ + i, part) + load(residual_ + i, part));
  }
  const T *x_, *residual_;
  T* sum_;
  std::int64_t d_;
  bool streamed_, adds_again_;
};

/// Whether y, and the sum where there is one, are stored past the caches.
template <typename T, typename Problem>
LONGHAUL_INLINE bool streams(const Problem& p) {
  const std::int64_t row_bytes = p.d * static_cast<std::int64_t>(sizeof(T));
  return past_caches(p.y, p.rows * row_bytes, row_bytes, p.x, p.residual) &&
         (!p.residual || past_caches(p.sum, p.rows * row_bytes, row_bytes, p.x, p.residual));
}

template <typename T, typename W>
LONGHAUL_LOOP void rms_norm_rows(const RmsNorm& p, std::int64_t begin, std::int64_t end) {
  using A = accumulate_t<T>;
  const W* w = static_cast<const W*>(p.weight);
  const A offset = static_cast<A>(p.weight_offset);
  const bool streamed = streams<T>(p);
  const auto sums = [&](std::int64_t row) __attribute__((always_inline)) {
    Lanes<A> squares[4] = {};
    Row<T, RmsNorm>(p, row, streamed).first([&](Lanes<A> value, auto, int slot) { squares[slot] += value * value; });
    const A square = sum_lanes_of_4<A>(squares) / static_cast<A>(p.d);
    return Statistics<A>{0, inverse_root<A>(square + static_cast<A>(p.epsilon)), 0, 0};
  };
  const auto write = [&](std::int64_t row, Statistics<A> of) __attribute__((always_inline)) {
    Row<T, RmsNorm>(p, row, streamed)
        .last(static_cast<T*>(p.y) + row * p.d, [&](std::int64_t i, Lanes<A> value, auto part) {
          return value * of.inverse * (load_as<A>(w + i, part) + offset);
        });
  };
  each_row(begin, end, sums, write);
  settle(streamed);
}

/// The rows of a gradient.
template <typename T, typename Problem>
struct GradientRow {
  LONGHAUL_INLINE GradientRow(const Problem& p, std::int64_t row)
      : x(static_cast<const T*>(p.x) + row * p.d),
        dy(static_cast<const T*>(p.dy) + row * p.d),
        residual(p.residual_gradient ? static_cast<const T*>(p.residual_gradient) + row * p.d : nullptr),
        dx(static_cast<T*>(p.dx) + row * p.d) {}
  const T *x, *dy, *residual;
  T* dx;
};
template <typename T, typename Problem>
LONGHAUL_INLINE bool gradient_streams(const Problem& p) {
  const std::int64_t row_bytes = p.d * static_cast<std::int64_t>(sizeof(T));
  return past_caches(p.dx, p.rows * row_bytes, row_bytes, p.x, p.dy, p.residual_gradient);
}

template <typename T, typename W>
LONGHAUL_LOOP void rms_norm_gradient_rows(const RmsNormGradient& p, std::int64_t begin, std::int64_t end, void* out) {
  using A = accumulate_t<T>;
  const W* w = static_cast<const W*>(p.weight);
  A* dweight = static_cast<A*>(out);
  const A offset = static_cast<A>(p.weight_offset);
  const bool streamed = gradient_streams<T>(p);
  for (std::int64_t i = 0; i < p.d; ++i) dweight[i] = 0;
  const auto sums = [&](std::int64_t row) __attribute__((always_inline)) {
    const GradientRow<T, RmsNormGradient> r(p, row);
    Lanes<A> squares[4] = {}, products[4] = {};
    each_vector_of_4<A>(p.d, [&](std::int64_t i, auto part, int slot) {
      const Lanes<A> value = load(r.x + i, part);
      squares[slot] += value * value;
      products[slot] += value * (load(r.dy + i, part) * (load_as<A>(w + i, part) + offset));
    });
    const A inverse = inverse_root<A>(sum_lanes_of_4<A>(squares) / static_cast<A>(p.d) + static_cast<A>(p.epsilon));
    return Statistics<A>{0, inverse, 0, sum_lanes_of_4<A>(products) * inverse / static_cast<A>(p.d)};
  };
  const auto write = [&](std::int64_t row, Statistics<A> of) __attribute__((always_inline)) {
    const GradientRow<T, RmsNormGradient> r(p, row);
    const auto sweep = [&](auto with_residual) __attribute__((always_inline)) {
      each_vector_to<A>(r.dx, p.d, streamed, [&](std::int64_t i, auto part) {
        const Lanes<A> xhat = load(r.x + i, part) * of.inverse, upper = load(r.dy + i, part);
        Lanes<A> gradient = (upper * (load_as<A>(w + i, part) + offset) - xhat * of.mean_gx) * of.inverse;
        if constexpr (with_residual.value) gradient += load(r.residual + i, part);
        store(dweight + i, load(dweight + i, part) + upper * xhat, part);
        return gradient;
      });
    };
    if (r.residual)
      sweep(std::true_type{});
    else
      sweep(std::false_type{});
  };
  each_row(begin, end, sums, write);
  settle(streamed);
}

/// Mean and variance from one sweep over x - c, where c is the mean of the row's first vector: what (sum)^2 / d takes
/// from the sum of squares is bounded by c's distance from the mean, and that distance by the variance, for the first
/// vector's elements lie there: (c - mean)^2 <= d / lanes variances, and 1 / lanes of one on random rows.
template <typename A>
LONGHAUL_INLINE Statistics<A> moments(A c, const Lanes<A> (&sums)[4], const Lanes<A> (&squares)[4], std::int64_t d,
                                      double epsilon) {
  const A count = static_cast<A>(d), shift = sum_lanes_of_4<A>(sums) / count;
  const A variance = sum_lanes_of_4<A>(squares) / count - shift * shift;  // NaN passes
  return {c + shift, inverse_root<A>((variance < 0 ? 0 : variance) + static_cast<A>(epsilon)), 0, 0};
}

template <typename T, typename W>
LONGHAUL_LOOP void layer_norm_rows(const LayerNorm& p, std::int64_t begin, std::int64_t end) {
  using A = accumulate_t<T>;
  const W* w = static_cast<const W*>(p.weight);
  const W* bias = static_cast<const W*>(p.bias);
  const bool streamed = streams<T>(p);
  const auto sums = [&](std::int64_t row) __attribute__((always_inline)) {
    const Row<T, LayerNorm> s(p, row, streamed);
    const A c = s.front();
    Lanes<A> of_x[4] = {}, squares[4] = {};
    s.first([&](Lanes<A> value, auto part, int slot) {
      const Lanes<A> shifted = keep<A>(value - c, part, 0);
      of_x[slot] += shifted;
      squares[slot] += shifted * shifted;
    });
    return moments<A>(c, of_x, squares, p.d, p.epsilon);
  };
  const auto write = [&](std::int64_t row, Statistics<A> of) __attribute__((always_inline)) {
    Row<T, LayerNorm>(p, row, streamed)
        .last(static_cast<T*>(p.y) + row * p.d, [&](std::int64_t i, Lanes<A> value, auto part) {
          return (value - of.mean) * of.inverse * load_as<A>(w + i, part) + load_as<A>(bias + i, part);
        });
  };
  each_row(begin, end, sums, write);
  settle(streamed);
}

template <typename T, typename W>
LONGHAUL_LOOP void layer_norm_gradient_rows(const LayerNormGradient& p, std::int64_t begin, std::int64_t end,
                                            void* out) {
  using A = accumulate_t<T>;
  const W* w = static_cast<const W*>(p.weight);
  constexpr std::int64_t line = 64 / sizeof(A);
  A* dweight = static_cast<A*>(out);
  A* dbias = dweight + (p.d + line - 1) / line * line;
  const A count = static_cast<A>(p.d);
  const bool streamed = gradient_streams<T>(p);
  for (std::int64_t i = 0; i < p.d; ++i) dweight[i] = dbias[i] = 0;
  const auto sums = [&](std::int64_t row) __attribute__((always_inline)) {
    const GradientRow<T, LayerNormGradient> r(p, row);
    const std::int64_t front = p.d < lanes_in<A> ? p.d : lanes_in<A>;
    const A c = sum_lanes<A>(p.d < lanes_in<A> ? load(r.x, Tail{p.d}) : load(r.x, Full{})) / static_cast<A>(front);
    Lanes<A> of_x[4] = {}, squares[4] = {}, of_g[4] = {}, products[4] = {};
    each_vector_of_4<A>(p.d, [&](std::int64_t i, auto part, int slot) {
      const Lanes<A> shifted = keep<A>(load(r.x + i, part) - c, part, 0);
      const Lanes<A> g = load(r.dy + i, part) * load_as<A>(w + i, part);
      of_x[slot] += shifted;
      squares[slot] += shifted * shifted;
      of_g[slot] += g;
      products[slot] += g * shifted;
    });
    Statistics<A> of = moments<A>(c, of_x, squares, p.d, p.epsilon);
    of.mean_g = sum_lanes_of_4<A>(of_g) / count;
    of.mean_gx = (sum_lanes_of_4<A>(products) / count - of.mean_g * (of.mean - c)) * of.inverse;
    return of;
  };
  const auto write = [&](std::int64_t row, Statistics<A> of) __attribute__((always_inline)) {
    const GradientRow<T, LayerNormGradient> r(p, row);
    const auto sweep = [&](auto with_residual) __attribute__((always_inline)) {
      each_vector_to<A>(r.dx, p.d, streamed, [&](std::int64_t i, auto part) {
        const Lanes<A> xhat = (load(r.x + i, part) - of.mean) * of.inverse, upper = load(r.dy + i, part);
        Lanes<A> gradient = (upper * load_as<A>(w + i, part) - of.mean_g - xhat * of.mean_gx) * of.inverse;
        if constexpr (with_residual.value) gradient += load(r.residual + i, part);
        store(dweight + i, load(dweight + i, part) + upper * xhat, part);
        store(dbias + i, load(dbias + i, part) + upper, part);
        return gradient;
      });
    };
    if (r.residual)
      sweep(std::true_type{});
    else
      sweep(std::false_type{});
  };
  each_row(begin, end, sums, write);
  settle(streamed);
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
