#include "kernels/cpu/kv_heads.h"

#include <cstring>

#include "kernels/cpu/support.h"
#include "kernels/cpu/thread_pool.h"

namespace longhaul::cpu {

void expand_heads(ThreadPool& pool, const KvHeads& p) {
  const std::int64_t bytes = p.head_dim * static_cast<std::int64_t>(size_of(p.type)), group = p.heads / p.kv_heads;
  parallel_for(pool, p.rows, rows_per_task(p.heads * p.head_dim), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r)
      for (std::int64_t h = 0; h < p.heads; ++h)
        std::memcpy(static_cast<char*>(p.y) + (r * p.heads + h) * bytes,
                    static_cast<const char*>(p.x) + (r * p.kv_heads + h / group) * bytes,
                    static_cast<std::size_t>(bytes));
  });
}

void reduce_heads(ThreadPool& pool, const KvHeads& p) {
  const std::int64_t group = p.heads / p.kv_heads;
  dispatch_floating(p.type, [&](auto t) {
    dispatch_floating(p.y_type, [&](auto u) {
      using T = decltype(t);
      using U = decltype(u);
      parallel_for(pool, p.rows, rows_per_task(p.heads * p.head_dim), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r)
          for (std::int64_t g = 0; g < p.kv_heads; ++g)
            for (std::int64_t i = 0; i < p.head_dim; ++i) {
              const T* x = static_cast<const T*>(p.x) + (r * p.heads + g * group) * p.head_dim + i;
              accumulate_t<T> sum = read(*x);
              for (std::int64_t h = 1; h < group; ++h) sum += read(x[h * p.head_dim]);
              static_cast<U*>(p.y)[(r * p.kv_heads + g) * p.head_dim + i] = convert<U>(sum);
            }
      });
    });
  });
}

}  // namespace longhaul::cpu
