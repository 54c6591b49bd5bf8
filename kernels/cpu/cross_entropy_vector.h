// Inner loop of cross_entropy: a row of logits is read from memory once. Blocks that fit the first-level cache are
// swept for their maximum and for the exponentials less that maximum, which are kept; the gradient scales them.
#pragma once
#include "kernels/cpu/cross_entropy.h"
#include "kernels/cpu/vector_math.h"

namespace longhaul::cpu {
namespace {

/// The logit that enters the softmax.
template <bool capped, typename A>
LONGHAUL_INLINE Lanes<A> transformed(Lanes<A> raw, A factor, A cap) {
  const Lanes<A> z = raw * factor;
  if constexpr (capped) return hyperbolic_tangent(z / cap) * cap;
  return z;
}

/// What a row's blocks leave behind.
template <typename A>
struct RowSum {
  A top;       ///< the largest logit
  double sum;  ///< of exp(z - top)
};

constexpr std::int64_t cross_entropy_block = 2048;  ///< elements; also keeps sums in float short

/// A block's maximum, -infinity where all logits are.
template <bool capped, typename A, typename T>
LONGHAUL_INLINE A block_top(const T* raw, std::int64_t count, A factor, A cap) {
  Lanes<A> tops[4];
  const A lowest = -static_cast<A>(__builtin_inf());
  for (auto& top : tops) top = broadcast<A>(lowest);
  each_vector_of_4<A>(count, [&](std::int64_t i, auto part, int slot) {
    const Lanes<A> z = keep<A>(transformed<capped, A>(load(raw + i, part), factor, cap), part, lowest);
    tops[slot] = larger(tops[slot], z);  // a NaN may be lost here, but not in the exponentials' sum
  });
  return max_lanes<A>(larger(larger(tops[0], tops[1]), larger(tops[2], tops[3])));
}

/// Keeps the exponentials and their blocks' maxima when there is a gradient to write.
template <bool capped, bool keeps, typename A, typename T, typename O>
LONGHAUL_INLINE RowSum<A> sweep_blocks(const T* raw, std::int64_t v, A factor, A cap, A* exponentials, A* block_tops,
                                       const O* gradient) {
  RowSum<A> row{-static_cast<A>(__builtin_inf()), 0};
  for (std::int64_t start = 0; start < v; start += cross_entropy_block) {
    const std::int64_t count = v - start < cross_entropy_block ? v - start : cross_entropy_block;
    const A top = block_top<capped, A>(raw + start, count, factor, cap);
    const A base = top == -static_cast<A>(__builtin_inf()) ? 0 : top;  // -infinity less itself is NaN
    Lanes<A> sums[4] = {};
    // While exponentials are computed, memory brings the next block.
    const T* next = raw + (start + 2 * cross_entropy_block <= v ? start + cross_entropy_block : start);
    each_vector_of_4<A>(count, [&](std::int64_t i, auto part, int slot) {
      __builtin_prefetch(next + i);
      if constexpr (keeps) __builtin_prefetch(gradient + start + i, 1);
      const Lanes<A> z = transformed<capped, A>(load(raw + start + i, part), factor, cap);
      const Lanes<A> e = exponential(z - base);
      sums[slot] += keep<A>(e, part, 0);
      if constexpr (keeps) store_as<A>(exponentials + start + i, e, part);
    });
    const double sum = static_cast<double>(sum_lanes_of_4<A>(sums));
    if constexpr (keeps) block_tops[start / cross_entropy_block] = top;
    // The sum so far and this block's, relative to the larger of their maxima; a NaN stays in the sum.
    if (top > row.top) {
      row.sum = row.sum * __builtin_exp(static_cast<double>(row.top) - static_cast<double>(top)) + sum;
      row.top = top;
    } else if (sum != 0) {  // true of NaN
      row.sum += sum * __builtin_exp(static_cast<double>(top) - static_cast<double>(row.top));
    }
  }
  return row;
}

template <typename T, typename O, bool capped>
LONGHAUL_LOOP void cross_entropy_rows(const CrossEntropy& p, std::int64_t begin, std::int64_t end, double* losses) {
  using A = accumulate_t<T>;
  const A factor = static_cast<A>(p.transform.logits_scale), cap = static_cast<A>(p.transform.soft_cap);
  const std::int64_t stride = p.stride ? p.stride : p.v;
  for (std::int64_t row = begin; row < end; ++row) {
    const T* raw = static_cast<const T*>(p.logits) + row * stride;
    O* gradient = p.dlogits ? static_cast<O*>(p.dlogits) + row * stride : nullptr;
    const std::int32_t label = p.labels[row];
    if (label < 0) {
      if (losses) losses[row] = 0;
      if (gradient) __builtin_memset(static_cast<void*>(gradient), 0, static_cast<std::size_t>(p.v) * sizeof(O));
      continue;
    }
    // The label's logit, by the same arithmetic as all others; raw may be overwritten below.
    const Lanes<A> chosen = transformed<capped, A>(load(raw + label, Tail{1}), factor, cap);
    A* exponentials = static_cast<A*>(p.exponentials);
    A* block_tops = exponentials + (p.v + 63) / 64 * 64;
    const RowSum<A> of = gradient
                             ? sweep_blocks<capped, true>(raw, p.v, factor, cap, exponentials, block_tops, gradient)
                             : sweep_blocks<capped, false>(raw, p.v, factor, cap, exponentials, block_tops, gradient);
    if (losses) losses[row] = __builtin_log(of.sum) - (static_cast<double>(chosen[0]) - static_cast<double>(of.top));
    if (!gradient) continue;
    const double scale = *p.scale;
    const auto slope = [&](Lanes<A> z) __attribute__((always_inline)) {  // of z by the raw logit
      if constexpr (capped) return (1 - (z / cap) * (z / cap)) * factor;
      return broadcast<A>(factor);
    };
    // The label's own entry: (softmax - 1) without the cancellation's rounding.
    const double probability = __builtin_exp(static_cast<double>(chosen[0]) - static_cast<double>(of.top)) / of.sum;
    const A at_label = static_cast<A>(scale * (probability - 1)) * slope(chosen)[0];
    for (std::int64_t start = 0; start < p.v; start += cross_entropy_block) {
      const std::int64_t count = p.v - start < cross_entropy_block ? p.v - start : cross_entropy_block;
      const double top = static_cast<double>(block_tops[start / cross_entropy_block]);
      const A multiplier = static_cast<A>(scale * __builtin_exp(top - static_cast<double>(of.top)) / of.sum);
      const A whole = multiplier * factor;
      each_vector<A>(count, [&](std::int64_t i, auto part) {
        const Lanes<A> e = load(exponentials + start + i, part);
        if constexpr (capped) {
          const Lanes<A> z = transformed<capped, A>(load(raw + start + i, part), factor, cap);
          store_as<A>(gradient + start + i, e * multiplier * slope(z), part);
        } else {
          store_as<A>(gradient + start + i, e * whole, part);
        }
      });
    }
    Lanes<A> one = broadcast<A>(at_label);
    store_as<A>(gradient + label, one, Tail{1});
  }
}

template <typename T>
LONGHAUL_LOOP void cross_entropy_range(const CrossEntropy& p, std::int64_t begin, std::int64_t end, void* out) {
  double* losses = static_cast<double*>(out);
  const bool capped = p.transform.soft_cap > 0;
  const auto with_output = [&](auto output) {
    using O = decltype(output);
    capped ? cross_entropy_rows<T, O, true>(p, begin, end, losses)
           : cross_entropy_rows<T, O, false>(p, begin, end, losses);
  };
  if (p.gradient_type == p.type)
    with_output(T{});
  else
    with_output(bfloat16{});
}

}  // namespace
}  // namespace longhaul::cpu
