#include "kernels/cpu/attention_delta.h"

#include "kernels/cpu/support.h"
#include "kernels/cpu/thread_pool.h"

namespace longhaul::cpu {

void attention_delta(ThreadPool& pool, const AttentionDelta& p, const VectorTable& table) {
  parallel_for(pool, p.rows, rows_per_task(p.d),
               [&](std::int64_t begin, std::int64_t end) { table.attention_delta[p.type](p, begin, end); });
}

namespace reference {

void attention_delta(const AttentionDelta& p) {
  dispatch_floating(p.type, [&](auto t) {
    using T = decltype(t);
    using A = accumulate_t<T>;
    for (std::int64_t row = 0; row < p.rows; ++row) {
      const T *out = static_cast<const T*>(p.out) + row * p.d, *dout = static_cast<const T*>(p.dout) + row * p.d;
      A sum = 0;
      for (std::int64_t i = 0; i < p.d; ++i) sum += read(out[i]) * read(dout[i]);
      static_cast<A*>(p.delta)[row] = sum;
    }
  });
}

}  // namespace reference
}  // namespace longhaul::cpu
