#include "kernels/cpu/copy_blocks.h"

#include <cstring>

#include "kernels/cpu/stream.h"
#include "kernels/cpu/support.h"

namespace longhaul::cpu {
namespace {

/// Copies runs first..last-1 of the flattened levels; the innermost level is a plain loop of run copies.
template <typename CopyRun>
void copy_runs(const BlockCopy& p, std::int64_t first, std::int64_t last, CopyRun copy_run) {
  const char* source = static_cast<const char*>(p.source);
  char* target = static_cast<char*>(p.target);
  const std::int64_t inner = p.counts[3];
  for (std::int64_t run = first; run < last;) {
    std::int64_t rest = run / inner;
    const std::int64_t i3 = run % inner, i2 = rest % p.counts[2];
    rest /= p.counts[2];
    const std::int64_t i1 = rest % p.counts[1], i0 = rest / p.counts[1];
    const char* from = source + i0 * p.source_strides[0] + i1 * p.source_strides[1] + i2 * p.source_strides[2];
    char* to = target + i0 * p.target_strides[0] + i1 * p.target_strides[1] + i2 * p.target_strides[2];
    const std::int64_t stop = std::min(inner, i3 + last - run);
    for (std::int64_t i = i3; i < stop; ++i) copy_run(to + i * p.target_strides[3], from + i * p.source_strides[3]);
    run += stop - i3;
  }
}

/// Joins levels whose elements follow each other in both buffers, so that runs are as long as they can be.
BlockCopy joined(const BlockCopy& given) {
  BlockCopy p = given;
  p.counts = {1, 1, 1, 1};
  p.source_strides = p.target_strides = {};
  int slot = 3;
  for (int level = 3; level >= 0; --level) {
    const std::int64_t count = given.counts[level];
    if (count == 1) continue;
    const std::int64_t from = given.source_strides[level], to = given.target_strides[level];
    if (slot == 3 && from == p.run_bytes && to == p.run_bytes) {
      p.run_bytes *= count;
      continue;
    }
    if (slot < 3) {  // does this level continue the one inside it?
      const int inner = slot + 1;
      if (from == p.source_strides[inner] * p.counts[inner] && to == p.target_strides[inner] * p.counts[inner]) {
        p.counts[inner] *= count;
        continue;
      }
    }
    p.counts[slot] = count;
    p.source_strides[slot] = from;
    p.target_strides[slot] = to;
    --slot;
  }
  return p;
}

}  // namespace

void copy_blocks(ThreadPool& pool, const BlockCopy& given) {
  for (std::int64_t count : given.counts)
    if (count <= 0) return;
  if (given.run_bytes <= 0) return;
  const BlockCopy p = joined(given);
  const std::int64_t runs = p.counts[0] * p.counts[1] * p.counts[2] * p.counts[3];
  constexpr std::int64_t task_bytes = 1 << 17;
  // Short runs would leave lines that are half written.
  const bool past = p.run_bytes >= 256 && past_caches(runs * p.run_bytes);
  if (p.run_bytes > 2 * task_bytes) {  // few long runs: cut each
    const std::int64_t pieces = (p.run_bytes + task_bytes - 1) / task_bytes;
    pool.run(runs * pieces, [&](std::int64_t task, int) {
      const std::int64_t begin = task % pieces * task_bytes, size = std::min(task_bytes, p.run_bytes - begin);
      copy_runs(p, task / pieces, task / pieces + 1, [&](char* to, const char* from) {
        copy_bytes(to + begin, from + begin, static_cast<std::size_t>(size), past);
      });
      if (past) finish_streams();
    });
    return;
  }
  parallel_for(pool, runs, std::max<std::int64_t>(1, task_bytes / p.run_bytes),
               [&](std::int64_t begin, std::int64_t end) {
                 // Short runs are copied by a constant size: a call of memcpy would cost more than the bytes.
                 switch (p.run_bytes) {
#define LONGHAUL_RUN(bytes) \
  case bytes:               \
    return copy_runs(p, begin, end, [](char* to, const char* from) { std::memcpy(to, from, bytes); });
                   LONGHAUL_RUN(2)
                   LONGHAUL_RUN(4)
                   LONGHAUL_RUN(8)
                   LONGHAUL_RUN(16)
                   LONGHAUL_RUN(32)
                   LONGHAUL_RUN(64)
                   LONGHAUL_RUN(128)
#undef LONGHAUL_RUN
                   default:
                     copy_runs(p, begin, end, [&](char* to, const char* from) {
                       copy_bytes(to, from, static_cast<std::size_t>(p.run_bytes), past);
                     });
                     if (past) finish_streams();
                 }
               });
}

namespace reference {

void copy_blocks(const BlockCopy& p) {
  for (std::int64_t i0 = 0; i0 < p.counts[0]; ++i0)
    for (std::int64_t i1 = 0; i1 < p.counts[1]; ++i1)
      for (std::int64_t i2 = 0; i2 < p.counts[2]; ++i2)
        for (std::int64_t i3 = 0; i3 < p.counts[3]; ++i3)
          for (std::int64_t byte = 0; byte < p.run_bytes; ++byte)
            static_cast<char*>(p.target)[i0 * p.target_strides[0] + i1 * p.target_strides[1] +
                                         i2 * p.target_strides[2] + i3 * p.target_strides[3] + byte] =
                static_cast<const char*>(p.source)[i0 * p.source_strides[0] + i1 * p.source_strides[1] +
                                                   i2 * p.source_strides[2] + i3 * p.source_strides[3] + byte];
}

}  // namespace reference
}  // namespace longhaul::cpu
