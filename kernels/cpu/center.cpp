#include "kernels/cpu/center.h"

#include "kernels/cpu/support.h"

namespace longhaul::cpu {
namespace {

template <typename T>
void center_rows(const Center& p, std::int64_t begin, std::int64_t end) {
  using A = accumulate_t<T>;
  constexpr std::int64_t parts = 8;  // sums of their own: independent additions, always in the same order
  for (std::int64_t row = begin; row < end; ++row) {
    const T* x = static_cast<const T*>(p.x) + row * p.d;
    T* y = static_cast<T*>(p.y) + row * p.d;
    A sums[parts] = {};
    std::int64_t i = 0;
    for (; i + parts <= p.d; i += parts)
      for (std::int64_t part = 0; part < parts; ++part) sums[part] += read(x[i + part]);
    for (; i < p.d; ++i) sums[0] += read(x[i]);
    A mean = 0;
    for (const A sum : sums) mean += sum;
    mean /= static_cast<A>(p.d);
    for (i = 0; i < p.d; ++i) y[i] = convert<T>(read(x[i]) - mean);
  }
}

}  // namespace

void center(ThreadPool& pool, const Center& p) {
  parallel_for(pool, p.rows, rows_per_task(p.d), [&](std::int64_t begin, std::int64_t end) {
    dispatch_floating(p.type, [&](auto t) { center_rows<decltype(t)>(p, begin, end); });
  });
}

}  // namespace longhaul::cpu
