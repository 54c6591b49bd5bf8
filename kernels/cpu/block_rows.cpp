#include "kernels/cpu/block_rows.h"

#include "kernels/cpu/support.h"
#include "kernels/cpu/thread_pool.h"

namespace longhaul::cpu {

void add_rows(ThreadPool& pool, const AddRows& p) {
  dispatch_floating(p.type, [&](auto t) {
    using T = decltype(t);
    parallel_for(pool, p.sequences * p.blocks * p.part_rows, rows_per_task(p.row),
                 [&](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t r = begin; r < end; ++r) {
                     const std::int64_t block = r / p.part_rows, within = r % p.part_rows, i = block % p.blocks;
                     const std::int64_t source = block - i + (i - p.step + p.blocks) % p.blocks;
                     T* x = static_cast<T*>(p.x) + (block * p.rows + p.from + within) * p.row;
                     const T* part = static_cast<const T*>(p.part) + (source * p.part_rows + within) * p.row;
                     for (std::int64_t k = 0; k < p.row; ++k) x[k] = convert<T>(read(x[k]) + read(part[k]));
                   }
                 });
  });
}

}  // namespace longhaul::cpu
