#include "kernels/cpu/kv_heads.h"

#include "kernels/cpu/stream.h"
#include "kernels/cpu/support.h"
#include "kernels/cpu/thread_pool.h"

namespace longhaul::cpu {

void expand_heads(ThreadPool& pool, const KvHeads& p) {
  const std::int64_t bytes = p.head_dim * static_cast<std::int64_t>(size_of(p.type)), group = p.heads / p.kv_heads;
  const bool past = bytes >= 128 && past_caches(p.rows * p.heads * bytes);
  parallel_for(pool, p.rows, rows_per_task(p.heads * p.head_dim), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r)
      for (std::int64_t h = 0; h < p.heads; ++h)
        copy_bytes(static_cast<char*>(p.y) + (r * p.heads + h) * bytes,
                   static_cast<const char*>(p.x) + (r * p.kv_heads + h / group) * bytes,
                   static_cast<std::size_t>(bytes), past);
    if (past) finish_streams();
  });
}

void reduce_heads(ThreadPool& pool, const KvHeads& p, const VectorTable& table) {
  parallel_for(pool, p.rows, rows_per_task(p.heads * p.head_dim),
               [&](std::int64_t begin, std::int64_t end) { table.reduce_heads[p.type](p, begin, end); });
}

namespace reference {

void reduce_heads(const KvHeads& p) {
  const std::int64_t group = p.heads / p.kv_heads;
  dispatch_floating(p.type, [&](auto t) {
    using T = decltype(t);
    dispatch_floating(p.y_type, [&](auto o) {
      using O = decltype(o);
      for (std::int64_t row = 0; row < p.rows * p.kv_heads; ++row)
        for (std::int64_t i = 0; i < p.head_dim; ++i) {
          const T* x = static_cast<const T*>(p.x) + row * group * p.head_dim + i;
          accumulate_t<T> sum = read(*x);
          for (std::int64_t h = 1; h < group; ++h) sum += read(x[h * p.head_dim]);
          static_cast<O*>(p.y)[row * p.head_dim + i] = convert<O>(sum);
        }
    });
  });
}

}  // namespace reference
}  // namespace longhaul::cpu
