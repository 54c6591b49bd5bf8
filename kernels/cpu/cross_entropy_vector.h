// Inner loop of cross_entropy: a row of logits is read from memory once; its three sweeps run in the cache.
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

template <typename T, typename O, bool capped>
LONGHAUL_LOOP void cross_entropy_rows(const CrossEntropy& p, std::int64_t begin, std::int64_t end, double* losses) {
  using A = accumulate_t<T>;
  const A factor = static_cast<A>(p.transform.logits_scale), cap = static_cast<A>(p.transform.soft_cap);
  for (std::int64_t row = begin; row < end; ++row) {
    const T* raw = static_cast<const T*>(p.logits) + row * p.v;
    O* gradient = p.dlogits ? static_cast<O*>(p.dlogits) + row * p.v : nullptr;
    const std::int32_t label = p.labels[row];
    if (label < 0) {
      if (losses) losses[row] = 0;
      if (gradient) __builtin_memset(static_cast<void*>(gradient), 0, static_cast<std::size_t>(p.v) * sizeof(O));
      continue;
    }
    Lanes<A> tops[4];
    const A lowest = -static_cast<A>(__builtin_inf());
    for (auto& top : tops) top = broadcast<A>(lowest);
    each_vector_of_4<A>(p.v, [&](std::int64_t i, auto part, int slot) {
      const Lanes<A> z = keep<A>(transformed<capped, A>(load(raw + i, part), factor, cap), part, lowest);
      tops[slot] = larger(tops[slot], z);  // a NaN replaces the maximum, and then stays in the sum below
    });
    const A top = max_lanes<A>(larger(larger(tops[0], tops[1]), larger(tops[2], tops[3])));
    double sum = 0;
    constexpr std::int64_t block = 2048;  // float sums stay short
    for (std::int64_t start = 0; start < p.v; start += block) {
      Lanes<A> sums[4] = {};
      each_vector_of_4<A>(p.v - start < block ? p.v - start : block, [&](std::int64_t i, auto part, int slot) {
        const Lanes<A> z = transformed<capped, A>(load(raw + start + i, part), factor, cap);
        sums[slot] += keep<A>(exponential(z - top), part, 0);
      });
      sum += static_cast<double>(sum_lanes_of_4<A>(sums));
    }
    const double log_sum = __builtin_log(sum);
    // The label's logit by the same arithmetic as all others.
    const Lanes<A> chosen = transformed<capped, A>(load(raw + label, Tail{1}), factor, cap);
    if (losses) losses[row] = log_sum - (static_cast<double>(chosen[0]) - static_cast<double>(top));
    if (!gradient) continue;
    const double scale = *p.scale;
    const A multiplier = static_cast<A>(scale / sum);
    const auto slope = [&](Lanes<A> z) __attribute__((always_inline)) {  // of z by the raw logit
      if constexpr (capped) return (1 - (z / cap) * (z / cap)) * factor;
      return broadcast<A>(factor);
    };
    // The label's own entry: (softmax - 1) without the cancellation's rounding; raw may be overwritten below.
    const double probability = static_cast<double>(exponential(chosen - top)[0]) / sum;
    const A at_label = static_cast<A>(scale * (probability - 1)) * slope(chosen)[0];
    each_vector<A>(p.v, [&](std::int64_t i, auto part) {
      const Lanes<A> z = transformed<capped, A>(load(raw + i, part), factor, cap);
      store_as<A>(gradient + i, exponential(z - top) * multiplier * slope(z), part);
    });
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
