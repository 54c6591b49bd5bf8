// Strided copies of contiguous runs: how collectives pack and unpack what they send.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>

namespace longhaul {
class ThreadPool;
}
namespace longhaul::cpu {

/// For every index (i0, i1, i2, i3) below `counts`, copies run_bytes bytes from
/// source + sum(i * source_strides) to target + sum(i * target_strides). Strides are in bytes and may be negative or
/// zero (in the source); levels that are not used have count 1. The innermost level should be the one whose runs follow
/// each other in one of the buffers: another order is several times slower. Source and target do not overlap, and no
/// two runs of the target do.
struct BlockCopy {
  const void* source;
  void* target;
  std::array<std::int64_t, 4> counts{1, 1, 1, 1};  ///< outermost first
  std::array<std::int64_t, 4> source_strides{};
  std::array<std::int64_t, 4> target_strides{};
  std::int64_t run_bytes;
};

void copy_blocks(ThreadPool& pool, const BlockCopy& problem);
namespace reference {
void copy_blocks(const BlockCopy& problem);
}

}  // namespace longhaul::cpu
