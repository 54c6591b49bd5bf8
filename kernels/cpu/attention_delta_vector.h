// Inner loop of attention_delta.
#pragma once
#include "kernels/cpu/attention_delta.h"
#include "kernels/cpu/vector.h"

namespace longhaul::cpu {
namespace {

template <typename T>
LONGHAUL_LOOP void attention_delta_range(const AttentionDelta& p, std::int64_t begin, std::int64_t end) {
  using A = accumulate_t<T>;
  for (std::int64_t row = begin; row < end; ++row) {
    const T *out = static_cast<const T*>(p.out) + row * p.d, *dout = static_cast<const T*>(p.dout) + row * p.d;
    Lanes<A> sums[4] = {};
    each_vector_of_4<A>(
        p.d, [&](std::int64_t i, auto part, int slot) { sums[slot] += load(out + i, part) * load(dout + i, part); });
    static_cast<A*>(p.delta)[row] = sum_lanes_of_4<A>(sums);
  }
}

}  // namespace
}  // namespace longhaul::cpu
