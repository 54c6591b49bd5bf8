// Inner loop of reduce_heads.
#pragma once
#include "kernels/cpu/kv_heads.h"
#include "kernels/cpu/vector.h"

namespace longhaul::cpu {
namespace {

template <typename T, typename O>
LONGHAUL_LOOP void reduce_heads_rows(const KvHeads& p, std::int64_t begin, std::int64_t end) {
  using A = accumulate_t<T>;
  const std::int64_t group = p.heads / p.kv_heads, d = p.head_dim, row_bytes = d * static_cast<std::int64_t>(sizeof(O));
  const bool streamed = past_caches(p.y, p.rows * p.kv_heads * row_bytes, row_bytes, p.x);
  for (std::int64_t row = begin * p.kv_heads; row < end * p.kv_heads; ++row) {
    const T* x = static_cast<const T*>(p.x) + row * group * d;
    each_vector_to<A>(static_cast<O*>(p.y) + row * d, d, streamed, [&](std::int64_t i, auto part) {
      Lanes<A> sum = load(x + i, part);
      for (std::int64_t h = 1; h < group; ++h) sum += load(x + h * d + i, part);
      return sum;
    });
  }
  settle(streamed);
}
template <typename T>
LONGHAUL_LOOP void reduce_heads_range(const KvHeads& p, std::int64_t begin, std::int64_t end) {
  if (p.y_type == DType::float64)
    reduce_heads_rows<T, double>(p, begin, end);
  else if (p.y_type == DType::float32)
    reduce_heads_rows<T, float>(p, begin, end);
  else
    reduce_heads_rows<T, bfloat16>(p, begin, end);
}

}  // namespace
}  // namespace longhaul::cpu
