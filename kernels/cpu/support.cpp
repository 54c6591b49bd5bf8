#include "kernels/cpu/support.h"

namespace longhaul::cpu {

void add_partials(ThreadPool& pool, DType type, const void* partials, std::int64_t parts, std::int64_t width,
                  DType out_type, void* out) {
  dispatch_floating(type, [&](auto t) {
    using A = accumulate_t<decltype(t)>;
    dispatch_floating(out_type, [&](auto o) {
      using O = decltype(o);
      const std::size_t stride = partial_bytes(type, width) / sizeof(A);
      constexpr std::int64_t block = 256;  // partial sums stay in registers and the first-level cache
      parallel_for(pool, width, block, [&](std::int64_t begin, std::int64_t end) {
        A sum[block] = {};
        for (std::int64_t part = 0; part < parts; ++part) {
          const A* from = static_cast<const A*>(partials) + part * stride;
          for (std::int64_t i = begin; i < end; ++i) sum[i - begin] += from[i];
        }
        for (std::int64_t i = begin; i < end; ++i) static_cast<O*>(out)[i] = convert<O>(sum[i - begin]);
      });
    });
  });
}

}  // namespace longhaul::cpu
